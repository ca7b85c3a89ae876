"""The VMDK images."""

from __future__ import annotations

import struct
from typing import Any

import vmdkkit
from guest import GIB, KIB, MIB, Guest, content, rng_for, text
from imagekit import Factory, Image
from vmdkkit import cid_of, descriptor, fix_vmdk


def flat_bytes(guest: Guest) -> bytes:
    return b"".join(guest.chunks())


def vmdk(make: Factory, name: str, size: int, *features: str, **more: Any) -> Image:
    return make.image(f"vmdk/{name}.vmdk", size, *features, format="vmdk", **more)


# --- made by qemu-img --------------------------------------------------------

def by_qemu(make: Factory) -> None:
    size = 2 * MIB
    for name, options in (("sparse", ""), ("compat6", "compat6=on"), ("hw-version", "hwversion=13"),
                          ("scsi", "adapter_type=lsilogic")):
        image = vmdk(make, "qemu-" + name, size, "monolithicSparse", *([name] if options else []))
        fix_vmdk(image.create("subformat=monolithicSparse" + ("," + options if options else "")).scatter())
    image = vmdk(make, "qemu-zeroed-grain", size, "monolithicSparse", "zeroed-grain",
                 comment="grains made zero, some of them stored before; one written again")
    image.create("subformat=monolithicSparse,zeroed_grain=on").scatter().write((100_000, text(image.rng, 900_000)))
    image.zero(3 * 65536, 2 * 65536).zero(8 * 65536, 65536).zero(20 * 65536, 65536).zero(700_100, 5_000)
    fix_vmdk(image.write((3 * 65536 + 99, b"written again")))
    for name, odd in (("odd-end", 1_000_448), ("one-sector", 512), ("tail-grain", 2 * MIB + 512)):
        image = vmdk(make, "qemu-" + name, odd, "monolithicSparse", "odd-size", comment="no whole number of grains")
        guest = content("vmdk/" + name, odd)
        guest.write(odd - 300, text(image.rng, 300))
        fix_vmdk(image.convert(guest, "subformat=monolithicSparse"))
    for name, length in (("stream", 3 * MIB), ("stream-odd", 1_000_448)):
        image = vmdk(make, "qemu-" + name, length, "streamOptimized", "zlib", seven=False,
                     comment="as qemu writes it: the directory is at the front, there is no footer; 7z refuses it")
        guest = content("vmdk/" + name, length, 64 * KIB, 12)
        guest.write(65536, image.rng.randbytes(65536))
        fix_vmdk(image.convert(guest, "subformat=streamOptimized"))
    for name, kind, part in (("flat", "monolithicFlat", "-flat"), ("two-gb-flat", "twoGbMaxExtentFlat", "-f001"),
                             ("two-gb-sparse", "twoGbMaxExtentSparse", "-s001")):
        image = vmdk(make, "qemu-" + name, MIB + 512, kind)
        fix_vmdk(image.convert(content("vmdk/" + name, MIB + 512), "subformat=" + kind))
        image.part(f"vmdk/qemu-{name}{part}.vmdk")
    image = vmdk(make, "qemu-two-gb-sparse-5G", 5 * GIB, "twoGbMaxExtentSparse", "large", "multi-extent",
                 comment="three extents; too large to hash whole: see samples")
    image.create("subformat=twoGbMaxExtentSparse")
    places = [0, 2 * GIB - 1000, 4 * GIB - 65536, 4 * GIB + 512, 5 * GIB - 4096]
    for offset in places:
        image.write((offset, text(image.rng, 3000)))
    image.samples = [(offset // 4096 * 4096, 8192) for offset in places[:-1]] + [(5 * GIB - 4096, 4096), (3 * GIB, 65536)]
    fix_vmdk(image)
    for number in (1, 2, 3):
        image.part(f"vmdk/qemu-two-gb-sparse-5G-s{number:03}.vmdk")


def deltas(make: Factory) -> None:
    size = 2 * MIB

    def delta(name: str, base: str, *features: str, options: str = "", **more: Any) -> Image:
        image = vmdk(make, name, size, "monolithicSparse", "delta", *features, **more)
        image.create("subformat=monolithicSparse" + options, base, "vmdk").write(
            (66_000, text(image.rng, 9_000)), (size - 5_000, image.rng.randbytes(500)), (size // 2 + 5, bytes(3_000)))
        fix_vmdk(image)
        return image

    delta("delta", "qemu-sparse.vmdk", seven=False, comment="7z does not read deltas")
    delta("delta-chain", "delta.vmdk", "chain=3", seven=False, comment="qemu-sparse <- delta <- this")
    image = delta("delta-zeroed-grain", "delta-chain.vmdk", "chain=4", "zeroed-grain", options=",zeroed_grain=on", seven=False,
                  comment="zeroed grains hide the parent's data")
    fix_vmdk(image.zero(65536, 65536).zero(20 * 65536, 4 * 65536).zero(200_000, 700))
    base = make.images["vmdk/qemu-flat.vmdk"]
    image = vmdk(make, "delta-over-flat", base.guest.size, "monolithicSparse", "delta", seven=False,
                 comment="over a monolithicFlat image of odd size")
    image.create("subformat=monolithicSparse", "qemu-flat.vmdk", "vmdk").scatter(count=1)
    fix_vmdk(image)


# --- made by hand ------------------------------------------------------------

def streams(make: Factory) -> None:
    def one(name: str, guest: Guest, comment: str, *, seven: bool = True, **layout: Any) -> None:
        text_ = descriptor("streamOptimized", [f'RW {guest.size // 512} SPARSE "{name}.vmdk"'], cid_of(name))
        image = vmdk(make, name, guest.size, "streamOptimized", "zlib", "footer", comment=comment, seven=seven)
        image.guest = guest
        image.hand(vmdkkit.stream(flat_bytes(guest), text_, **layout), comment)

    guest = content("vmdk/stream", 3 * MIB)
    guest.write(2 * 65536, rng_for("vmdk/stream").randbytes(2 * 65536))
    one("stream", guest, "as VMware writes it, version 3; some grains are larger packed than plain")
    guest = Guest(10 * MIB)
    for at in (0, 4 * MIB - 8192, 9 * MIB, 10 * MIB - 8192):
        guest.write(at, text(rng_for(f"vmdk/stream{at}"), 8192))
    one("stream-tables", guest, "version 1, grains of 8 KiB, three tables of which the middle one is absent", version=1, grain=16)
    guest = content("vmdk/stream-odd", MIB + 3 * 512)
    guest.write(guest.size - 1000, b"the last grain is short" * 40)
    one("stream-odd", guest, "the last grain is short, packed as short as it is; 7z wants a whole one", seven=False)
    one("stream-odd-padded", guest, "the last grain is short, but filled up before packing", pad=True)
    image = vmdk(make, "stream-cut", 3 * MIB, "streamOptimized", expect="refuse-corrupt", qemu="refuses",
                 comment="stream.vmdk without its last 3 KiB: no footer")
    image.hand(make.images["vmdk/stream.vmdk"].path.read_bytes()[:-3072], image.comment)


def multi(make: Factory) -> None:
    flat = [flat_bytes(content(f"vmdk/multi{n}", n * 512)) for n in (1000, 24, 1072)]

    def with_extents(name: str, kind: str, lines: list[str], guest: bytes, comment: str, **more: Any) -> Image:
        image = vmdk(make, name, len(guest), kind, "multi-extent", comment=comment, **more)
        image.guest = Guest.of(guest)
        return image.hand(descriptor(kind, lines, cid_of(name)).encode(), comment)

    image = with_extents("multi-flat", "twoGbMaxExtentFlat",
                         [f'RW {len(d) // 512} FLAT "multi-flat-f{n:03}.vmdk" 0' for n, d in enumerate(flat, 1)],
                         b"".join(flat), "three flat extents in three files")
    for number, data in enumerate(flat, 1):
        image.part(f"vmdk/multi-flat-f{number:03}.vmdk", data, "generated")

    pool = flat_bytes(content("vmdk/pool", MIB))
    guest = pool[700 * 512:1500 * 512] + pool[100 * 512:700 * 512] + pool[2047 * 512:]
    image = with_extents("flat-offsets", "monolithicFlat", [
        'RW 800 FLAT "flat-offsets-flat.vmdk" 700', 'RW 600 FLAT "flat-offsets-flat.vmdk" 100',
        'RW 1 FLAT "flat-offsets-flat.vmdk" 2047'], guest, "three parts of one file, not in its order")
    image.part("vmdk/flat-offsets-flat.vmdk", pool, "generated")

    for name, second, comment, qemu in (
            ("multi-sparse", 1008, "two sparse extents, the second one stored backwards, and a flat one", "ok"),
            ("multi-sparse-odd", 1001, "the second of three extents is no whole number of grains; qemu reads the rest of "
             "its last grain instead of the next extent's start", "wrong")):
        parts = [flat_bytes(content(f"vmdk/{name}{n}", n * 512)) for n in (1280, second)]
        image = with_extents(name, "twoGbMaxExtentSparse", [
            f'RW 1280 SPARSE "{name}-s001.vmdk"', f'RW {second} SPARSE "{name}-s002.vmdk"',
            f'RW 24 FLAT "{name}-f003.vmdk" 0'], b"".join(parts) + flat[1], comment, qemu=qemu)
        image.part(f"vmdk/{name}-s001.vmdk", bytes(vmdkkit.sparse(parts[0])), "generated")
        image.part(f"vmdk/{name}-s002.vmdk", bytes(vmdkkit.sparse(parts[1], grain=16, backwards=True)), "generated")
        image.part(f"vmdk/{name}-f003.vmdk", flat[1], "generated")

    sparse = flat_bytes(content("vmdk/mixed", 640 * 512))
    lines = ['RW 24 FLAT "multi-mixed-f001.vmdk" 0', "RW 1000 ZERO", 'RW 640 SPARSE "multi-mixed-s003.vmdk"',
             'RDONLY 1000 FLAT "multi-mixed-f004.vmdk" 0', "RDONLY 7 ZERO"]
    image = with_extents("multi-mixed", "twoGbMaxExtentFlat", lines,
                         flat[1] + bytes(1000 * 512) + sparse + flat[0] + bytes(7 * 512),
                         "flat, zero, sparse and read-only extents; qemu leaves out the zero and the read-only ones, "
                         "which moves what follows; 7z does not read zero extents", qemu="wrong", seven=False)
    image.part("vmdk/multi-mixed-f001.vmdk", flat[1], "generated")
    image.part("vmdk/multi-mixed-s003.vmdk", bytes(vmdkkit.sparse(sparse)), "generated")
    image.part("vmdk/multi-mixed-f004.vmdk", flat[0], "generated")

    image = with_extents("no-access", "twoGbMaxExtentFlat", [
        'NOACCESS 24 FLAT "multi-mixed-f001.vmdk" 0', 'RW 1000 FLAT "multi-mixed-f004.vmdk" 0'], flat[1] + flat[0],
        "the first extent must not be read; qemu leaves it out, which moves what follows", qemu="wrong",
        expect="refuse-unsupported")
    image.needs(make.images["vmdk/multi-mixed-f001.vmdk"], make.images["vmdk/multi-mixed-f004.vmdk"])


def esx(make: Factory) -> None:
    base = content("vmdk/vmfs", 5 * MIB)
    sectors = base.size // 512

    def alone(name: str, kind: str, line: str, guest: Guest, comment: str, *, over: Image | None = None, **more: Any) -> Image:
        image = vmdk(make, name, guest.size, kind, *(["delta"] if over else []), comment=comment, **more)
        image.guest = guest
        parent = {"parent_cid": cid_of(over.path.stem), "parent": over.path.name} if over else {}
        image.hand(descriptor(kind, [f"RW {sectors} {line}"], cid_of(name), **parent).encode(), "descriptor written")  # type: ignore[arg-type]
        if over:
            image.needs(over)
        return image

    root = alone("vmfs", "vmfs", 'VMFS "vmfs-flat.vmdk"', base, "as ESX writes it")
    root.part("vmdk/vmfs-flat.vmdk", flat_bytes(base), "generated")

    def over(name: str, grain: int) -> tuple[Guest, list[int], bytes]:
        """The base with some text over it, and the grains (of `grain` sectors) that have it."""
        guest, rng, own = base.resized(base.size), rng_for(name), set()
        for at in (0, 3 * grain * 512, 300_000, 4 * MIB + 1024, base.size - 4096):
            length = rng.randrange(600, 9000) if at < 5_000_000 else 4096
            guest.write(at, text(rng, min(length, base.size - at)))
            own |= set(range(at // (grain * 512), (min(at + length, base.size) - 1) // (grain * 512) + 1))
        guest.write(350_208, bytes(grain * 512))
        own.add(350_208 // (grain * 512)) if 350_208 % (grain * 512) == 0 else guest.write(
            350_208, base.read(350_208, grain * 512))
        return guest, sorted(own), flat_bytes(guest)

    lone = Guest(base.size)
    for at in (512, 100_000, 4 * MIB + 5120):
        lone.write(at, text(rng_for(f"cowd{at}"), 5_000))
    image = alone("vmfs-sparse", "vmfsSparse", 'VMFSSPARSE "vmfs-sparse-delta.vmdk"', lone,
                  "a COWD extent with grains of one sector; its second table is absent", seven=False)
    image.part("vmdk/vmfs-sparse-delta.vmdk", vmdkkit.cowd(flat_bytes(lone), name="vmfs-sparse"), "generated")
    image = alone("vmfs-sparse-64k", "vmfsSparse", 'VMFSSPARSE "vmfs-sparse-64k-delta.vmdk"', lone,
                  "a COWD extent with grains of 64 KiB", seven=False)
    image.part("vmdk/vmfs-sparse-64k-delta.vmdk", vmdkkit.cowd(flat_bytes(lone), grain=128), "generated")
    guest, own, data = over("cowd-over", 1)
    image = alone("vmfs-sparse-over", "vmfsSparse", 'VMFSSPARSE "vmfs-sparse-over-delta.vmdk"', guest,
                  "a COWD snapshot of vmfs.vmdk", over=root, seven=False)
    image.part("vmdk/vmfs-sparse-over-delta.vmdk", vmdkkit.cowd(data, own=own), "generated")

    size = 20 * MIB
    big = Guest(size)
    for at in (4096, 100_000, 17 * MIB, size - 4096):
        big.write(at, text(rng_for(f"se{at}"), 4096))
    sectors = size // 512
    image = alone("se-sparse", "seSparse", 'SESPARSE "se-sparse-sesparse.vmdk"', big,
                  "a space-efficient extent; tables and grains are not in the order of the disk", seven=False)
    image.part("vmdk/se-sparse-sesparse.vmdk", vmdkkit.se_sparse(flat_bytes(big)), "generated")
    sectors = base.size // 512
    guest, own, _ = over("se-over", 8)
    zero, unmapped = [grain for grain in range(100, 140) if grain not in own], [700, 701, 1023]
    for grain in [*zero, *unmapped]:
        guest.write(grain * 4096, bytes(4096))
    assert not set(unmapped) & set(own)
    image = alone("se-sparse-over", "seSparse", 'SESPARSE "se-sparse-over-sesparse.vmdk"', guest,
                  "a space-efficient snapshot of vmfs.vmdk with zeroed and unmapped grains", over=root, seven=False)
    image.part("vmdk/se-sparse-over-sesparse.vmdk",
               vmdkkit.se_sparse(flat_bytes(guest), own=own, zero=zero, unmapped=unmapped), "generated")
    image = alone("se-sparse-journal", "seSparse", 'SESPARSE "se-sparse-journal-sesparse.vmdk"', base,
                  "the journal would have to be replayed", seven=False, expect="refuse-unsupported", qemu="refuses")
    image.part("vmdk/se-sparse-journal-sesparse.vmdk", vmdkkit.se_sparse(flat_bytes(base), own=[3, 4], replay=1), "generated")
    top = vmdk(make, "delta-over-cowd", base.size, "monolithicSparse", "delta", "chain=3", seven=False,
               comment="vmfs <- vmfs-sparse-over <- this")
    top.create("subformat=monolithicSparse", "vmfs-sparse-over.vmdk", "vmdk").write((70_000, text(top.rng, 3_000)))
    fix_vmdk(top)


def descriptors(make: Factory) -> None:
    guest = content("vmdk/crlf", 700 * 512)
    sectors, data = guest.size // 512, flat_bytes(guest)

    def flat(name: str, extent: str, raw: bytes, comment: str, *features: str, **more: Any) -> None:
        image = vmdk(make, name, guest.size, "monolithicFlat", *features, comment=comment, **more)
        image.guest = guest
        image.hand(raw, comment).part(f"vmdk/{extent}", data, "generated", stored=f"vmdk/{name}-flat.vmdk")

    def lines(extent: str, **more: Any) -> str:
        return descriptor("monolithicFlat", [f'RW {sectors} FLAT "{extent}" 0'], cid_of(extent), **more)

    flat("crlf", "crlf-flat.vmdk", lines("crlf-flat.vmdk").replace("\n", "\r\n").encode().ljust(2048, b"\0"),
         "lines end with CR LF, and NULs follow up to 2 KiB", "crlf")
    flat("spaced", "spaced-flat.vmdk", ("\n" + lines("spaced-flat.vmdk").replace("=", " = ").replace(" FLAT ", "  FLAT\t")
         .replace("createType", "CreateType").rstrip()).encode(),
         "blank first line, spaces around =, a key in other case, no last line end", qemu="refuses", seven=False)
    for name, encoding, codec, stem in (("shift-jis", "Shift_JIS", "shift_jis", "ディスク表"),
                                        ("windows-1252", "windows-1252", "cp1252", "Größe – café"),
                                        ("utf-8", "UTF-8", "utf-8", "диск ☃")):
        extent = f"{stem}-flat.vmdk"
        plain = codec == "utf-8"
        flat(name, extent, lines(extent, encoding=encoding).encode(codec), f"the extent's name is stored as {encoding}"
             + ("" if plain else "; qemu looks for a file with just those bytes"), "encoding",
             qemu="ok" if plain else "refuses", seven=plain)


def oddities(make: Factory) -> None:
    size = 2001 * 512
    guest = content("vmdk/capacity", size)

    def embedded(name: str, guest: Guest, comment: str, *, extra: dict[str, Any] | None = None,
                 layout: dict[str, Any] | None = None, **more: Any) -> Image:
        image = vmdk(make, name, guest.size, "monolithicSparse", comment=comment, **more)
        image.guest = guest
        words = descriptor("monolithicSparse", [f'RW {guest.size // 512} SPARSE "{name}.vmdk"'], cid_of(name), **(extra or {}))
        return image.hand(bytes(vmdkkit.sparse(flat_bytes(guest), words, **(layout or {}))), comment)

    embedded("capacity-rounded", guest, "the header's capacity of 2048 sectors is rounded up to the grain, the descriptor's "
             "2001 are the disk's; qemu shows 2048", layout={"capacity": 2048}, qemu="rounds-size", slack=65536, seven=False)
    embedded("backwards", content("vmdk/backwards", 5 * MIB), "grains of 8 KiB, stored backwards; two tables",
             layout={"grain": 16, "backwards": True})
    embedded("table-128", guest, "tables of 128 entries, where 512 is usual; 7z refuses that", seven=False,
             layout={"grain": 16, "gtes": 128})
    zeroed = guest.resized(size)
    zeroed.write(5 * 65536, bytes(2 * 65536))
    embedded("zeroed-grain", zeroed, "version 2 with grains marked as zeroed", layout={"zero": [5, 6]})

    def hurt(data: bytearray) -> None:
        gd = struct.unpack_from("<Q", data, 56)[0]
        data[gd * 512:gd * 512 + 512] = b"\xef\xbe\xad\x7e" * 128

    image = embedded("redundant-only", guest, "the first grain directory points past the file's end, the redundant one is whole; "
                     "qemu reads zeros", qemu="wrong", seven=False)
    image.features.append("damaged")
    image.edit("grain directory overwritten", hurt)
    whole = make.images["vmdk/backwards.vmdk"].path.read_bytes()
    for name, old, new, qemu in (("mangled-to-crlf", b"\n", b"\r\n", "refuses"), ("mangled-to-lf", b"\r\n", b"\n", "wrong")):
        image = vmdk(make, name, 5 * MIB, "monolithicSparse", "damaged", expect="refuse-corrupt", qemu=qemu,
                     comment=f"backwards.vmdk after a text-mode transfer: {old!r} became {new!r}" + (
                         "; qemu reads it, shifted" if qemu == "wrong" else ""))
        image.hand(whole.replace(old, new), image.comment)
    embedded("uuid-parent-only", guest, "as VirtualBox writes a child: the parent is named by UUID only; qemu reads it as if "
             "it had no parent", expect="refuse-missing-parent", qemu="wrong",
             extra={"parent_cid": 0x1BADD00D, "ddb": {
                 "uuid.image": "5a7e8f3c-0b1d-4c6e-9f2a-3d4b5c6d7e8f", "uuid.parent": "0c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f",
                 "uuid.modification": "00000000-0000-0000-0000-000000000000",
                 "uuid.parentmodification": "00000000-0000-0000-0000-000000000000"}})
    embedded("parent-gone", guest, "the parent that it names does not exist", expect="refuse-missing-parent", qemu="refuses",
             extra={"parent_cid": 0x1BADD00D, "parent": "no-such-parent.vmdk"})
    for name, kind, lines in (
            ("custom", "custom", ['RW 63 FLAT "custom-pt.vmdk" 0', "RW 4033 ZERO"]),
            ("full-device", "fullDevice", [r'RW 4096 FLAT "\\.\PhysicalDrive0" 0']),
            ("partitioned-device", "partitionedDevice", ['RW 63 FLAT "custom-pt.vmdk" 0', r'RW 4033 FLAT "\\.\PhysicalDrive0" 63']),
            ("raw-device-map", "vmfsPassthroughRawDeviceMap", ['RW 4096 VMFSRDM "raw-device-map-rdmp.vmdk"'])):
        image = vmdk(make, name, 4096 * 512, kind, expect="refuse-unsupported", qemu="refuses",
                     comment="its extents are devices, not files")
        image.hand(descriptor(kind, lines, cid_of(name)).encode(), "descriptor written")


GROUPS = [by_qemu, deltas, streams, multi, esx, descriptors, oddities]
