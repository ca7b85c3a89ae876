"""The VHDX images."""

from __future__ import annotations

import shutil
from typing import Any, Callable

from guest import GIB, KIB, MIB, Guest, content, rng_for, text
from imagekit import Factory, Image, run
from vhdxkit import (BAT_AT, FULL, HEADERS, META_AT, REGION_TABLES, UNDEFINED, UNMAPPED, ZERO, Log, Vhdx, fix_vhdx,
                     guid_of)


def vhdx(make: Factory, name: str, guest: Guest, *features: str, **more: Any) -> Image:
    image = make.image(f"vhdx/{name}.vhdx", guest.size, *features, format="vhdx", **more)
    image.guest = guest
    return image


def flat(guest: Guest) -> bytes:
    return b"".join(guest.chunks())


def block_of(guest: Guest, number: int, block: int) -> bytes:
    return guest.read(number * block, min(block, guest.size - number * block))


def by_qemu(make: Factory) -> None:
    for name, options, size in (("dynamic", "subformat=dynamic,block_size=1M", 5 * MIB), ("block-2m", "block_size=2M", 5 * MIB),
                                ("block-8m", "block_size=8M", 5 * MIB), ("fixed", "subformat=fixed,block_size=1M", 3 * MIB),
                                ("odd", "block_size=1M", 2 * MIB + 1536), ("zero-on", "block_size=1M,block_state_zero=on", 5 * MIB),
                                ("zero-off", "block_size=1M,block_state_zero=off", 5 * MIB), ("log-2m", "block_size=1M,log_size=2M", 3 * MIB)):
        features = ["fixed" if "fixed" in options else "dynamic", *options.split(",")]
        image = make.image(f"vhdx/qemu-{name}.vhdx", size, *dict.fromkeys(features), format="vhdx")
        image.create(options).write((0, text(image.rng, 5_000)), (size - 700, text(image.rng, 700)), (MIB - 300, image.rng.randbytes(900)))
        fix_vhdx(image)
        image.seven = size % 4096 == 0
    image = make.image("vhdx/qemu-5G.vhdx", 5 * GIB, "dynamic", "large", format="vhdx",
                       comment="more blocks than one chunk; too large to hash whole: see samples")
    places = [0, 4 * GIB - MIB, 4 * GIB - 500, 4 * GIB + MIB + 512, 5 * GIB - 4096]
    image.create("block_size=1M").write(*((at, text(image.rng, 3_000)) for at in places))
    image.samples = [(at // 4096 * 4096, 8192) for at in places[:-1]] + [(5 * GIB - 4096, 4096), (3 * GIB, 65536)]
    fix_vhdx(image)


def plain(name: str, guest: Guest, **more: Any) -> Vhdx:
    """A dynamic image that holds every block that is not zero, the last one first."""
    made = Vhdx(f"vhdx/{name}.vhdx", guest.size, **more)
    for number in reversed(range(-(-guest.size // made.block))):
        data = block_of(guest, number, made.block)
        if any(data):
            made.put(number, data)
    return made


def by_hand(make: Factory) -> None:
    guest = Guest(6 * MIB + 8192)
    for at in (0, 2 * MIB - 700, 5 * MIB + 1234, 6 * MIB + 9):
        guest.write(at, text(rng_for(f"vhdx/{at}"), min(9_000, guest.size - at)))

    def one(name: str, comment: str, *features: str, prepare: Callable[[Vhdx], object] | None = None, what: str = "",
            change: Callable[[bytearray], object] | None = None, layout: dict[str, Any] | None = None, guest: Guest = guest,
            **more: Any) -> None:
        image = vhdx(make, name, guest, "dynamic", *features, comment=comment, **more)
        made = plain(name, guest, **(layout or {}))
        if prepare:
            prepare(made)
        image.hand(made.build(), "written by hand")
        if change:
            image.edit(what, change)

    def spoil(*places: int) -> Callable[[bytearray], object]:
        def change(data: bytearray) -> None:
            for place in places:
                data[place] ^= 0x55
        return change

    first, second = HEADERS
    one("plain", "as Windows writes it; blocks are stored backwards")
    one("odd", "the size is no multiple of 4096, which 7z refuses", "odd-size", guest=guest.resized(6 * MIB + 512), seven=False)
    one("sector-4096", "logical sectors of 4096 bytes", "sector=4096", layout={"logical": 4096}, qemu="refuses")
    one("header-1-damaged", "the newer header has a wrong checksum", "damaged", change=spoil(first + 90), what="header 1",
        seven=False,
        prepare=lambda v: setattr(v, "sequences", (9, 8)))
    one("header-2-damaged", "the newer header has a wrong checksum", "damaged", change=spoil(second + 90), what="header 2",
        seven=False)
    one("headers-damaged", "both headers have wrong checksums", "damaged", expect="refuse-corrupt", qemu="refuses",
        change=spoil(first + 90, second + 90), what="both headers")
    one("region-1-damaged", "the first region table has a wrong checksum, the second one is whole", "damaged",
        change=spoil(REGION_TABLES[0] + 20), what="region table 1", qemu="refuses", seven=False)
    one("regions-damaged", "both region tables have wrong checksums", "damaged", expect="refuse-corrupt", qemu="refuses",
        change=spoil(*(at + 20 for at in REGION_TABLES)), what="both region tables")
    stranger = guid_of("stranger")
    one("unknown-item", "an optional metadata item and an optional region of unknown kind have to be skipped", "unknown-item",
        prepare=lambda v: (v.items.insert(0, (stranger, 1, b"for somebody else")), v.regions.append((stranger, v.place(b"odd region", MIB) << 20, MIB, 0))))
    one("unknown-required-item", "a required metadata item of unknown kind", expect="refuse-unsupported", qemu="refuses",
        prepare=lambda v: v.items.append((stranger, 6, b"must know")))
    one("unknown-required-region", "a required region of unknown kind", expect="refuse-unsupported", qemu="refuses",
        prepare=lambda v: v.regions.append((stranger, v.place(b"odd region", MIB) << 20, MIB, 1)))

    def states(v: Vhdx) -> None:
        junk = v.place(b"\xdd" * MIB, MIB)
        v.mark(1, UNDEFINED, junk).mark(2, ZERO, junk).mark(3, UNMAPPED, junk).mark(4, ZERO)

    mixed = Guest(7 * MIB)
    mixed.write(10, text(rng_for("vhdx/states"), 5_000))
    mixed.write(6 * MIB + 10, text(rng_for("vhdx/states6"), 5_000))
    one("states", "blocks fully present, undefined, zero, unmapped (these three with a stale place), zero, not present, fully "
        "present", "block-states", guest=mixed, prepare=states)


def logs(make: Factory) -> None:
    guest = Guest(6 * MIB)
    for at in (0, 2 * MIB - 700, 4 * MIB + 99, 5 * MIB + 1234):
        guest.write(at, text(rng_for(f"vhdx/log{at}"), 9_000))

    def one(name: str, comment: str, *, start: int = 0, wreck: str = "", **more: Any) -> None:
        """Three entries: the first one writes a BAT that is partly wrong, the second one the right BAT, the third one
        zeroes what the file's own BAT wrongly holds in its next sector and writes the right metadata."""
        image = vhdx(make, name, guest, "dynamic", "log", comment=comment, qemu="refuses", **more)
        made = plain(name, guest)
        size = made.data_at + len(made.data)
        right, meta = made.bat_bytes()[:4096], bytes(made.build()[META_AT + 64 * KIB:][:4096])
        log = Log(image.file, start, sequence=0x1_0000_0007, file_size=size + (MIB if wreck == "short" else 0))
        if wreck == "old":  # what an earlier, longer run left behind
            old = Log(image.file, 0, sequence=3, file_size=size)
            for _ in range(3):
                old.entry((BAT_AT, bytes(4096)))
            log.ring[:] = old.ring
            log.at = log.tail = 2 * 8192
        log.entry((BAT_AT, right[:16] + bytes(4080)), spoil=wreck == "first")
        log.entry((BAT_AT, right))
        log.entry((BAT_AT + 4096, 8192), (META_AT + 64 * KIB, meta), (BAT_AT + 16384, 4096), spoil=wreck == "last")
        if wreck == "empty":
            log.ring[:] = bytes(MIB)
        whole = log.into(made).build()
        whole[BAT_AT:BAT_AT + 4096] = b"\x07" * 4096
        if wreck != "last":
            whole[META_AT + 64 * KIB:META_AT + 68 * KIB] = bytes(4096)
        whole[BAT_AT + 4096:BAT_AT + 12288] = b"\x55" * 8192
        image.hand(whole, "written by hand")
        if wreck in ("", "old", "last"):
            replayed = image.path.with_name("replayed.vhdx")
            shutil.copyfile(image.path, replayed)
            run(image.path.parent, ["qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", replayed.name])
            run(image.path.parent, ["qemu-img", "convert", "-f", "vhdx", "-O", "raw", replayed.name, "replayed.raw"])
            if replayed.with_suffix(".raw").read_bytes() != flat(guest):
                raise SystemExit(f"{image.file}: qemu replays the log to something else")
            replayed.unlink()
            replayed.with_suffix(".raw").unlink()

    after = "qemu reads it after 'qemu-img check -r all'"
    one("log", f"three pending log entries, with data and zero descriptors; {after}", seven=False)
    one("log-wrapped", f"the last one of the pending log entries goes on at the log's start; {after}", start=MIB - 20480,
        seven=False)
    one("log-wrapped-more", "two of three pending log entries end at the log's start; qemu's replay would miss the first two",
        start=MIB - 12288, wreck="for qemu", seven=False)
    one("log-after-old", f"the pending log entries lie behind one of an earlier run; {after}", wreck="old", seven=False)
    one("log-torn", f"the last one of three log entries is damaged: the two before it are replayed; {after}", wreck="last",
        seven=False)
    one("log-damaged", "the first one of three log entries is damaged, so that no sequence is whole", wreck="first",
        expect="refuse-corrupt")
    one("log-empty", "the header names a log, but the log holds nothing", wreck="empty", expect="refuse-corrupt")
    one("log-file-short", "the file is shorter than when its log was written", wreck="short", expect="refuse-corrupt")


def differencing(make: Factory) -> None:
    def child(name: str, over: Image, parent: Vhdx, *features: str, gone: bool = False, comment: str, **more: Any) -> tuple[Image, Vhdx]:
        image = vhdx(make, name, over.guest.resized(over.guest.size), "differencing", *features, comment=comment, qemu="refuses",
                     **more)
        made = Vhdx(image.file, image.guest.size, parent=parent, logical=parent.logical,
                    relative=".\\gone.vhdx" if gone else ".\\" + over.path.name)
        rng, sector = rng_for(image.file), made.logical
        image.guest.write(0, text(rng, 50_000).ljust(MIB, b"\0"))
        made.put(0, block_of(image.guest, 0, MIB))
        image.guest.write(4 * MIB, bytes(MIB))
        made.mark(4, ZERO)
        for block, own in ((1, lambda n: n % 3 == 0), (2, lambda n: 5 <= n < 29 or n == MIB // sector - 1), (5, lambda n: n == 8)):
            for number in filter(own, range(MIB // sector)):
                if number % 2 and number < 256 or number == 0:
                    image.guest.write(block * MIB + number * sector, text(rng, sector))
                else:
                    image.guest.write(block * MIB + number * sector, bytes(sector))
            made.put_partial(block, block_of(image.guest, block, MIB), own)
        image.hand(made.build(), "written by hand")
        if not gone:
            image.needs(over)
        return image, made

    guest = Guest(7 * MIB)
    for at in range(7):
        guest.write(at * MIB + 4_000, text(rng_for(f"vhdx/diff{at}"), 150_000 if at < 6 else 100))
    for logical, tag in ((512, ""), (4096, "-4096")):
        over = vhdx(make, "diff-base" + tag, guest, "dynamic", qemu="ok" if logical == 512 else "refuses",
                    comment="parent of diff" + tag)
        base = plain("diff-base" + tag, guest, logical=logical)
        over.hand(base.build(), "written by hand")
        one, made = child("diff" + tag, over, base, f"sector={logical}",
                          comment="blocks fully, partly and not present, and one zero, over diff-base" + tag)
        if not tag:
            child("diff-3", one, made, "chain=3", comment="diff-base <- diff <- this")
            child("diff-parent-gone", over, base, gone=True, expect="refuse-missing-parent",
                  comment="the parent that it names does not exist")


GROUPS = [by_qemu, by_hand, logs, differencing]
