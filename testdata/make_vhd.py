"""The VHD images."""

from __future__ import annotations

from typing import Any, Callable

import vhdkit
from guest import KIB, MIB, Guest, content, rng_for, text
from imagekit import Factory, Image
from vhdkit import fix_vhd, uuid_of


def vhd(make: Factory, name: str, guest: Guest, *features: str, **more: Any) -> Image:
    image = make.image(f"vhd/{name}.vhd", guest.size, *features, format="vpc", **more)
    image.guest = guest
    return image


def flat(guest: Guest) -> bytes:
    return b"".join(guest.chunks())


def by_qemu(make: Factory) -> None:
    for name, kind, size, forced in (("dynamic", "dynamic", 5 * MIB, True), ("dynamic-chs", "dynamic", 5 * MIB, False),
                                     ("fixed", "fixed", MIB, True), ("fixed-chs", "fixed", MIB, False),
                                     ("dynamic-odd", "dynamic", 4 * MIB + 1536, True), ("fixed-odd", "fixed", 1_000_448, True),
                                     ("dynamic-small", "dynamic", 68 * 512, True)):
        guest = content("vhd/" + name, size)
        image = vhd(make, "qemu-" + name, guest, kind, "force-size" if forced else "chs-size",
                    comment="" if forced else "the size is rounded up to cylinders, heads and sectors")
        image.convert(guest, f"subformat={kind},force_size={'on' if forced else 'off'}")
        fix_vhd(image)
        if not forced:
            image.take_size()


def creators(make: Factory) -> None:
    guest = content("vhd/creators", 5 * MIB)
    cylinders, heads, track = vhdkit.geometry(guest.size // 512)
    for creator, system in ((b"win ", b"Wi2k"), (b"vbox", b"Wi2k"), (b"qemu", b"Wi2k"), (b"vpc ", b"Mac "),
                            (b"d2v\0", b"Wi2k"), (b"tap\0", b"\0\0\0\0")):
        name = creator.strip(b" \0").decode()
        by_geometry = creator in (b"qemu", b"vpc ")  # the rule that qemu-img follows; 7z takes the size
        image = vhd(make, "creator-" + name, guest, "dynamic", f"creator={name}", seven=not by_geometry,
                    comment="the footer's size is no multiple of its cylinders, heads and sectors"
                    + ("; of this creator, the geometry is the size" if by_geometry else ""))
        image.hand(vhdkit.sparse(flat(guest), image.path.name, creator=creator, system=system), "written by hand")
        if by_geometry:
            image.guest = guest.resized(cylinders * heads * track * 512)
    chs = vhdkit.geometry(5 * MIB // 512)
    size = chs[0] * chs[1] * chs[2] * 512
    image = vhd(make, "creator-vpc-chs", content("vhd/chs", size), "dynamic", "creator=vpc",
                comment="size and geometry agree, as Virtual PC writes it")
    image.hand(vhdkit.sparse(flat(image.guest), image.path.name, creator=b"vpc "), "written by hand")


def layouts(make: Factory) -> None:
    def one(name: str, guest: Guest, comment: str, *features: str, change: Callable[[bytearray], object] | None = None,
            what: str = "", layout: dict[str, Any] | None = None, **more: Any) -> None:
        image = vhd(make, name, guest, "dynamic", *features, comment=comment, **more)
        image.hand(vhdkit.sparse(flat(guest), image.path.name, **(layout or {})), "written by hand")
        if change:
            image.edit(what, change)

    guest = content("vhd/layouts", 5 * MIB + 512)
    one("block-512k", guest, "blocks of 512 KiB, stored backwards", "block=512k", layout={"block": 512 * KIB, "backwards": True})
    one("block-16k", guest, "blocks of 16 KiB: the bitmap is shorter than a sector", "block=16k", layout={"block": 16 * KIB})
    one("block-8m", guest, "one block of 8 MiB, with a bitmap of four sectors", "block=8m", layout={"block": 8 * MIB})
    one("bat-overshoot", guest, "the BAT has 200 unused entries past the disk's end; 7z refuses that", "block=512k", seven=False,
        layout={"block": 512 * KIB, "overshoot": 200})
    whole = Guest(guest.size)
    one("all-zero-block", whole, "one block is stored though it is zero, with no bit of its bitmap set", layout={"keep": [1]})

    def cut(data: bytearray) -> None:
        del data[-512:]

    def spoil(*places: int) -> Callable[[bytearray], object]:
        def change(data: bytearray) -> None:
            for place in places:
                data[place if place >= 0 else len(data) + place] ^= 0x55
        return change

    one("no-end-footer", guest, "the footer at the end is lost", "damaged", change=cut, what="last 512 bytes cut off")
    one("front-copy-damaged", guest, "the copy of the footer at the front has a wrong cookie and checksum", "damaged",
        change=spoil(2, 50), what="front footer", qemu="refuses", seven=False)
    one("end-footer-damaged", guest, "the footer at the end has a wrong checksum", "damaged", change=spoil(-400),
        what="end footer", seven=False)
    one("both-footers-damaged", guest, "both footers have wrong checksums", "damaged", expect="refuse-corrupt",
        qemu="refuses", change=spoil(100, -412), what="both footers")
    one("header-damaged", guest, "the dynamic header has a wrong cookie and checksum", "damaged", expect="refuse-corrupt",
        qemu="refuses", change=spoil(514), what="dynamic header")

    fixed = content("vhd/fixed", MIB)
    chs = fixed.resized(2040 * 512)  # 30 cylinders, 4 heads, 17 sectors
    image = vhd(make, "fixed-511", chs, "fixed", "footer=511", seven=False,
                comment="the footer has 511 bytes, as programs before Virtual PC 2004 wrote it")
    image.hand(vhdkit.fixed(flat(chs), image.path.name, creator=b"vpc ")[:-1], "written by hand")
    image = vhd(make, "fixed-win", fixed, "fixed", "creator=win", comment="as Windows writes it")
    image.hand(vhdkit.fixed(flat(fixed), image.path.name), "written by hand")


def differencing(make: Factory) -> None:
    def child(name: str, over: Image, *features: str, size: int = 0, block: int = 2 * MIB, gone: bool = False,
              comment: str = "", **more: Any) -> Image:
        """Some sectors over the parent, zeros among them; blocks wholly, partly and not stored."""
        image = vhd(make, name, over.guest.resized(size or over.guest.size), "differencing", *features,
                    comment=comment, **{"qemu": "wrong", **more})
        rng, own = rng_for(image.file), set()
        places = [0, 512 * 7, block - 1024, rng.randrange(image.guest.size // 512 - 40) * 512, image.guest.size - 3 * 512]
        for index, at in enumerate(places):
            sectors = min(1 + 5 * index, (image.guest.size - at) // 512)
            image.guest.write(at, text(rng, sectors * 512) if index != 2 else bytes(sectors * 512))
            own |= set(range(at // 512, at // 512 + sectors))
        image.guest.write(64 * KIB, bytes(96 * KIB))
        own |= set(range(128, 320))
        target = "gone.vhd" if gone else over.path.name
        image.hand(vhdkit.sparse(flat(image.guest), image.path.name, block=block, own=own.__contains__,
                                 parent=(uuid_of(over.path.name), ".\\" + target, "C:\\vm\\" + target)), "written by hand")
        return image if gone else image.needs(over)

    one = child("diff-over-dynamic", make.images["vhd/qemu-dynamic.vhd"], comment="qemu takes it for a dynamic disk")
    child("diff-over-fixed", make.images["vhd/fixed-win.vhd"], comment="qemu takes it for a dynamic disk", block=512 * KIB)
    child("diff-3", one, "chain=3", block=512 * KIB,
          comment="qemu-dynamic <- diff-over-dynamic <- this; qemu takes it for a dynamic disk")
    child("diff-over-odd", make.images["vhd/qemu-dynamic-odd.vhd"], comment="the parent ends inside a block; qemu takes it for "
          "a dynamic disk")
    child("diff-parent-gone", make.images["vhd/qemu-dynamic.vhd"], gone=True, expect="refuse-missing-parent",
          comment="the parent that it names does not exist; qemu takes it for a dynamic disk")


GROUPS = [by_qemu, creators, layouts, differencing]
