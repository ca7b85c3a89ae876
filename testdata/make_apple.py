"""The images of Apple's formats."""

from __future__ import annotations

import struct
import zlib

import applekit as kit
from applekit import Table
from guest import KIB, Guest
from imagekit import Factory
from make_relatives import flat, maker, pieces


def dmg(make: Factory) -> None:
    one = maker(make, "dmg")
    sectors = 1000
    guest = pieces("dmg/hand", sectors * 512, 0, 100_000, 400_000)
    guest.write(300_000, b"\xff" * 5000)
    data = flat(guest)

    def tables(kind: str, unit: int = 64) -> list[Table]:
        """A partition table and two partitions, as hdiutil makes them."""
        places = (("Protective Master Boot Record (MBR : 0)", 0, 40), ("disk image (Apple_HFS : 1)", 40, 800), (" (Apple_Free : 2)", 840, 160))
        return [Table(name, start, kit.by_content(data, kind, start, count, unit)) for name, start, count in places]

    one("udro", guest, kit.dmg(data, tables("raw")), "chunks as they are", "UDRO")
    one("udzo", guest, kit.dmg(data, tables("zlib")), "compressed by zlib", "UDZO", "compressed")
    one("udbz", guest, kit.dmg(data, tables("bzip2")), "compressed by bzip2", "UDBZ", "compressed", qemu="refuses")
    one("udco", guest, kit.dmg(data, tables("adc")), "compressed by ADC", "UDCO", "compressed", qemu="refuses")
    one("ulfo", guest, kit.dmg(data, tables("lzvn")), "compressed by LZFSE (blocks of LZVN)", "ULFO", "compressed", qemu="refuses")
    one("ulmo", guest, kit.dmg(data, tables("lzma")), "compressed by LZMA", "ULMO", "compressed", qemu="refuses")
    kinds = ["zero", "lzfse", "raw", "zlib", "ignore", "adc", "lzma", "lzvn", "bzip2", "raw", "raw"]
    zeros = Guest(sectors * 512)
    chunks, at = [], 0
    for number in range(sectors):
        kind, count = kinds[number % len(kinds)], min(1 + number * 7 % 53, sectors - at)
        if count <= 0:
            break
        chunks.append((kind, count))
        if kind not in ("zero", "ignore"):
            zeros.write(at * 512, (data[number * 900:] + data)[:count * 512])
        at += count
    parts = [Table("second", sum(c for _, c in chunks[:20]), chunks[20:]), Table("first & last", 0, chunks[:20])]
    parts[1].name = "first"
    mixed = kit.dmg(flat(zeros), parts, fork_at=3000, data_offset=77)
    one("mixed", zeros, mixed, "every kind of chunk, tables in another order, the data somewhere else", "mixed", "compressed",
        qemu="refuses")
    one("resources", guest, kit.dmg(data, tables("zlib"), xml=False, fork=True), "a resource fork instead of a property list", "UDZO",
        "compressed")
    one("both", guest, kit.dmg(data, tables("zlib"), fork=True), "a resource fork and a property list", "UDZO", "compressed")
    one("front", guest, kit.dmg(data, tables("zlib"), front=True), "the trailer at the start", "UDZO", "compressed", qemu="refuses")
    one("no-sums", guest, kit.dmg(data, tables("zlib"), sums=False), "without checksums", "UDZO", "compressed")
    one("one-chunk", guest, kit.dmg(data, [Table("all", 0, [("zlib", sectors)])]), "one chunk", "UDZO", "compressed")
    one("empty", Guest(0), kit.dmg(b"", [Table("nothing", 0, [])]), "a disk of no bytes", "UDRO")
    wrong = tables("zlib")
    wrong[1].wrong_sum = True
    one("wrong-sum", guest, kit.dmg(data, wrong), "the checksum of a table is wrong, its data are not", "UDZO", "compressed")

    def bad(name: str, image: bytes, comment: str, expect: str = "refuse-corrupt", qemu: str = "refuses") -> None:
        one(name, guest, image, comment, "damaged", expect=expect, qemu=qemu)

    bad("gap", kit.dmg(data, [tables("zlib")[0], tables("zlib")[2]]), "a table is missing")
    overlapping = tables("zlib")
    overlapping[2].start = 800
    bad("overlap", kit.dmg(data, overlapping), "two tables have the same sectors")
    bad("too-small", kit.dmg(data, tables("zlib"), sectors=900), "the tables have more sectors than the disk", qemu="wrong")
    bad("segment", kit.dmg(data, tables("zlib"), segments=3), "one of three files", "refuse-unsupported", qemu="wrong")
    unknown = tables("zlib")
    unknown[2].chunks = [("unknown", 160)]
    bad("unknown-type", kit.dmg(data, unknown), "chunks of an unknown type; qemu reads on", "refuse-unsupported", qemu="refuses")
    stream = tables("zlib")
    stream[1].streams[2] = zlib.compress(data[168 * 512:230 * 512])
    bad("short-stream", kit.dmg(data, stream), "a stream that holds less than its sectors")
    stream[1].streams[2] = zlib.compress(data[168 * 512:233 * 512])
    bad("long-stream", kit.dmg(data, stream), "a stream that holds more than its sectors")
    stream[1].streams[2] = zlib.compress(data[168 * 512:232 * 512])[:-5] + b"12345"
    bad("bad-stream", kit.dmg(data, stream), "a stream with another checksum")
    differs = kit.dmg(data, tables("raw"), fork=True)
    at = differs.index(b"mish") + 204
    struct.pack_into(">I", differs, at, 2)
    bad("differs", differs, "the resource fork has another chunk than the property list", qemu="wrong")
    bad("open-end", kit.dmg(data, tables("zlib"), terminated=False), "the tables have no terminator", qemu="wrong")
    late = kit.dmg(data, tables("raw"), xml=False, fork=True)
    at = late.index(b"mish") + 204
    struct.pack_into(">Q", late, at + 24, 1 << 40)
    bad("beyond-end", late, "a chunk beyond the end of the file; qemu reads zeros", qemu="wrong")


def sparseimage(make: Factory) -> None:
    one = maker(make, "sparseimage")
    guest = pieces("sparseimage/hand", 1000 * 512, 0, 100_000, 400_000)
    data = flat(guest)
    no = dict(qemu="refuses")  # qemu does not know the format
    one("bands-1m", guest, kit.sparseimage(data, band=2048), "one band, larger than the disk", **no)
    one("bands-16", guest, kit.sparseimage(data, band=16), "bands of 16 sectors", "dynamic", **no)
    own = [n for n in range(63) if any(data[n * 8192:][:8192])]
    one("backwards", guest, kit.sparseimage(data, band=16, own=own[::-1]), "bands from the last to the first", "dynamic", **no)
    one("odd-bands", guest, kit.sparseimage(data, band=7), "bands of 7 sectors", "dynamic", **no)
    one("empty", Guest(4096), kit.sparseimage(bytes(4096)), "a disk that nothing was written to", "dynamic", **no)
    large = pieces("sparseimage/lists", 2500 * 512, 0, 100_000, 900_000)
    one("three-lists", large, kit.sparseimage(flat(large), band=1, own=range(2500)), "more bands than two lists hold", "dynamic", **no)
    for name, change, comment in (
        ("twice", lambda b: struct.pack_into(">I", b, 68, 1), "a band is there twice"),
        ("no-such-band", lambda b: struct.pack_into(">I", b, 68, 64), "a band that the disk does not have"),
        ("no-such-list", lambda b: struct.pack_into(">Q", b, 20, 4096), "a list where none can be"),
        ("cut", lambda b: b.__delitem__(slice(-512, None)), "the last sector is missing"),
    ):
        image = kit.sparseimage(data, band=16)
        change(image)
        one(name, guest, image, comment, "damaged", expect="refuse-corrupt", **no)


def asif(make: Factory) -> None:
    one = maker(make, "asif")
    no = dict(qemu="refuses")
    guest = pieces("asif/hand", 700 * 512, 0, 100_000, 340_000)
    data = flat(guest)
    chunk = 128 * KIB
    one("full", guest, kit.asif(data, chunk=chunk), "chunks of 128 KiB", "dynamic", **no)
    one("partial", guest, kit.asif(data, chunk=chunk, partial=[0, 2], swapped=True), "chunks of which some sectors were never written",
        "dynamic", **no)
    wide = pieces("asif/4k", 5 * 256 * KIB, 0, 700_000, 1_000_000)
    one("sectors-4k", wide, kit.asif(flat(wide), sector=4096, chunk=256 * KIB, partial=[2]), "sectors of 4 KiB", "dynamic", **no)
    one("empty", Guest(700 * 512), kit.asif(bytes(700 * 512), chunk=chunk), "nothing was written", "dynamic", **no)
    for name, image, comment, expect in (
        ("flags", kit.asif(data, chunk=chunk, flags=1), "an unknown flag", "refuse-unsupported"),
        ("version", kit.asif(data, chunk=chunk, version=2), "an unknown version", "refuse-unsupported"),
        ("cut", kit.asif(data, chunk=chunk)[:-40_000], "the last sectors are missing", "refuse-corrupt"),
    ):
        one(name, guest, image, comment, "damaged", expect=expect, **no)
    for name, entry, expect in (("status-2", 2 << 62 | 2, "refuse-unsupported"), ("reserved", 1 << 62 | 1 << 55 | 2, "refuse-unsupported"),
                                ("no-bitmap", 3 << 62 | 2, "refuse-corrupt"), ("beyond-end", 1 << 62 | 1 << 40, "refuse-corrupt")):
        image = kit.asif(data, chunk=chunk)
        struct.pack_into(">Q", image, chunk, entry)
        one(name, guest, image, "an entry that has no meaning here", "damaged", expect=expect, **no)


GROUPS = [dmg, sparseimage, asif]
