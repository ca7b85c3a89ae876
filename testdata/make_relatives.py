"""The images of the smaller formats: QCOW version 1, QED, Parallels, Bochs, cloop, Android sparse; and LUKS."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import relativeskit as kit
from guest import KIB, MIB, Guest, content, rng_for, text
from imagekit import Factory, Image


def flat(guest: Guest) -> bytes:
    return b"".join(guest.chunks())


def pieces(name: str, size: int, *places: int, length: int = 9_000) -> Guest:
    """A disk with some text at these places."""
    guest = Guest(size)
    for at in places:
        guest.write(at, text(rng_for(f"{name}/{at}"), min(length, size - at)))
    return guest


def maker(make: Factory, format: str, suffix: str = "") -> Any:
    def one(name: str, guest: Guest, data: bytes, comment: str, *features: str, **more: Any) -> Image:
        image = make.image(f"{format}/{name}{suffix or '.' + format}", guest.size, *features, format=format, comment=comment, **more)
        image.guest = guest
        return image.hand(data, "written by hand")
    return one


def qcow(make: Factory) -> None:
    for name, size in (("dynamic", 5 * MIB), ("odd", 2 * MIB + 1536)):
        make.image(f"qcow/qemu-{name}.qcow", size, "dynamic", format="qcow").create().scatter(4 * KIB)
    # convert -c writes such an image and fails all the same
    image = make.image("qcow/qemu-packed.qcow", 3 * MIB, "compressed", format="qcow").create()
    for at in range(0, 3 * MIB, 51 * 4 * KIB):
        image.write((at, text(image.rng, 4 * KIB)), (at + 4 * KIB, text(image.rng, 4 * KIB)), flags="-c")
    image.write((20 * KIB, image.rng.randbytes(4 * KIB)), flags="-c").write((2 * MIB + 100, text(image.rng, 70_000)))
    base = make.image("qcow/base.raw", MIB + 512, "extent", format="raw", comment="what QCOW and QED images are upon")
    base.guest = content("qcow/base", MIB + 512)
    base.save_raw("written from the model")
    child = make.image("qcow/qemu-child.qcow", 2 * MIB, "backing", format="qcow", comment="longer than its backing file")
    child.create("", "base.raw", "raw").write((70_000, text(child.rng, 3_000)), (MIB + 200_000, text(child.rng, 900)))
    over = make.image("qcow/qemu-child-2.qcow", 768 * KIB, "backing", "chain=3", format="qcow")
    over.create("", "qemu-child.qcow", "qcow").write((65_000, text(over.rng, 2_000)))

    one = maker(make, "qcow")
    guest = pieces("qcow/hand", 300_032, 0, 70_000, 291_000)
    one("small-clusters", guest, kit.qcow(flat(guest), cluster_bits=9, l2_bits=6, backwards=True), "clusters and tables of 512 bytes",
        "cluster=512")
    one("large-clusters", guest, kit.qcow(flat(guest), cluster_bits=16, l2_bits=13, packed=[1]), "clusters and tables of 64 KiB",
        "cluster=64k", "compressed")
    packed = kit.qcow(flat(guest), cluster_bits=12, l2_bits=6, packed=range(3, 60), mtime=1_000_000_000)
    one("mixed", guest, packed, "plain and compressed clusters, several tables", "compressed")
    odd = Guest.of(flat(guest)[:292_001] + b"the end")
    one("odd-bytes", odd, kit.qcow(flat(odd)), "the size is no multiple of 512", "odd-size", qemu="rounds-size")
    byte = Guest.of(b"!")
    one("one-byte", byte, kit.qcow(b"!", cluster_bits=9, l2_bits=6), "a disk of one byte", "odd-size", qemu="refuses")
    one("empty", Guest(0), kit.qcow(b""), "a disk of no bytes", qemu="refuses")
    one("aes", guest, kit.qcow(flat(guest), crypt=1), "marked as encrypted", "encrypted", expect="refuse-encrypted", qemu="refuses")
    cut = kit.qcow(flat(guest), packed=range(100))
    one("cut", guest, cut[:-1], "the last byte of the last table is missing; qemu does not mind", "damaged",
        expect="refuse-corrupt", qemu="wrong")
    stream = kit.qcow(flat(guest), cluster_bits=12, l2_bits=6, packed=range(100))
    stream[stream.index(kit.deflated(kit.split(flat(guest), 4096)[17])) + 5] ^= 0xFF
    one("bad-stream", guest, stream, "a compressed cluster is damaged", "damaged", expect="refuse-corrupt", qemu="refuses")


def qed(make: Factory) -> None:
    def by_qemu(name: str, size: int, *features: str, **more: Any) -> Image:
        return make.image(f"qed/qemu-{name}.qed", size, *features, format="qed", **more)

    image = by_qemu("dynamic", 5 * MIB, "dynamic").create().scatter(64 * KIB)
    image.zero(3 * MIB, 128 * KIB)
    by_qemu("odd", MIB + 1536, "dynamic").create("cluster_size=4k,table_size=2").scatter(4 * KIB)
    by_qemu("large-clusters", 3 * MIB, "dynamic").create("cluster_size=1M,table_size=2").scatter(MIB, 2)
    by_qemu("empty", 0, "dynamic").create()
    child = by_qemu("child", 2 * MIB, "backing", comment="longer than its backing file, which is never probed")
    child.create("cluster_size=16k", "../qcow/base.raw", "raw").write((70_000, text(child.rng, 3_000))).zero(256 * KIB, 64 * KIB)
    over = by_qemu("child-2", 768 * KIB, "backing", "chain=3")
    over.create("cluster_size=4k,table_size=2", "qemu-child.qed", "qed").write((65_000, text(over.rng, 2_000)))

    one = maker(make, "qed")
    guest = pieces("qed/hand", 4 * MIB, 0, 70_000, 2 * MIB - 700, 4 * MIB - 4_000)
    one("backwards", guest, kit.qed(flat(guest), backwards=True, zero=[100, 1000]), "two tables, clusters stored backwards", "dynamic")
    one("table-1", guest, kit.qed(flat(guest), table=1), "tables of one cluster, which qemu makes and does not open", "dynamic",
        qemu="refuses")
    one("header-2", guest, kit.qed(flat(guest), header=2, compat=1 << 40, autoclear=5),
        "a header of two clusters, feature bits that do no harm", "dynamic")
    one("dirty", guest, kit.qed(flat(guest), features=2), "marked as not closed properly", "dirty")
    one("unknown-feature", guest, kit.qed(flat(guest), features=8), "an unknown feature bit", expect="refuse-unsupported", qemu="refuses")
    one("cut", guest, kit.qed(flat(guest))[:-4096], "the last cluster is missing", "damaged", expect="refuse-corrupt", qemu="refuses")


def parallels(make: Factory) -> None:
    def by_qemu(name: str, size: int, options: str, cluster: int) -> None:
        image = make.image(f"parallels/qemu-{name}.parallels", size, "dynamic", format="parallels")
        image.create(options).scatter(cluster, 3)

    by_qemu("dynamic", 5 * MIB, "", MIB)
    by_qemu("small-clusters", MIB + 1536, "cluster_size=16k", 16 * KIB)
    make.image("parallels/qemu-empty.parallels", 0, "dynamic", format="parallels").create("cluster_size=4k")

    one = maker(make, "parallels")
    guest = pieces("parallels/hand", 700 * 512, 0, 70_000, 300_000)
    one("old", guest, kit.parallels(flat(guest), tracks=63, ext=False, in_use=0, backwards=True),
        "the old magic, clusters of 63 sectors as VirtualBox has them", "dynamic")
    one("old-data-off", guest, kit.parallels(flat(guest), tracks=64, ext=False, data_off=1), "the old magic with an offset of the data",
        "dynamic")
    one("odd-clusters", guest, kit.parallels(flat(guest), tracks=33, backwards=True), "clusters of 33 sectors", "dynamic")
    one("dirty", guest, kit.parallels(flat(guest), in_use=0x746F6E59), "marked as open", "dirty")
    one("bitmap", guest, kit.parallels(flat(guest), bitmap=b"backup of monday"), "a format extension with a dirty bitmap", "bitmaps")
    unknown = struct.pack("<QQII5s3x", 0x1122334455667788, 2, 5, 0, b"hello")
    one("unknown-section", guest, kit.parallels(flat(guest), bitmap=b"backup of monday", unknown=unknown),
        "a format extension with an unknown section that does no harm", "bitmaps", qemu="refuses")
    one("marked-empty", Guest(guest.size), kit.parallels(bytes(guest.size), flags=1), "marked as empty", "dynamic")
    one("marked-empty-lie", guest, kit.parallels(flat(guest), flags=1), "marked as empty, and is not; qemu does not look", "damaged",
        expect="refuse-corrupt", qemu="wrong")
    one("short-bat", guest, kit.parallels(flat(guest), sectors=7000), "the BAT ends before the disk; qemu reads zeros", "damaged",
        expect="refuse-corrupt", qemu="wrong")
    one("cut", guest, kit.parallels(flat(guest))[:-512], "the last sector is missing; qemu reads zeros", "damaged",
        expect="refuse-corrupt", qemu="wrong")
    bundles(make)


def bundles(make: Factory) -> None:
    def file(name: str, data: bytes, guest: Guest, format: str = "parallels") -> Image:
        image = make.image(f"parallels/{name}", guest.size, "extent", format=format, comment="a file of a bundle")
        image.guest = guest
        return image.hand(data, "written by hand")

    def bundle(name: str, guest: Guest, xml: bytes, comment: str, *files: Image, **more: Any) -> None:
        one = maker(make, "parallels", suffix="/DiskDescriptor.xml")
        image = one(name, guest, xml, comment, "bundle", qemu="refuses", **more)
        if files:
            image.needs(*files)

    guest = pieces("parallels/bundle", 1000 * 512, 0, 100_000, 400_000)
    data, none = flat(guest), kit.NO_GUID
    single = file("single.hdd/single.hds", kit.parallels(data), guest)
    bundle("single.hdd", guest, kit.descriptor([(0, 1000, 128, [(kit.GUID, "Compressed", "single.hds")])], [(kit.GUID, none)]),
           "one file", single)

    low, high = Guest.of(data[:600 * 512]), Guest.of(data[600 * 512:])
    first = file("split.hdd/split.0.hds", kit.parallels(flat(low), tracks=64), low)
    second = file("split.hdd/split.1.hds", flat(high), high, "raw")
    parts = [(0, 600, 64, [(kit.GUID, "Compressed", "split.0.hds")]), (600, 1000, 128, [(kit.GUID, "Plain", "split.1.hds")])]
    bundle("split.hdd", guest, kit.descriptor(parts[::-1], [(kit.GUID, none)]), "two parts, one of them a raw disk, told backwards",
           first, second)

    base, middle = "{11111111-1111-1111-1111-111111111111}", "{22222222-2222-2222-2222-222222222222}"
    states = [guest]
    files = [file("snapshots.hdd/snapshots.0.hds", flat(guest), guest, "raw")]
    for number, own in enumerate(([1, 3], [0, 3, 7]), 1):
        state = states[-1].resized(guest.size)
        for cluster in own:
            at = cluster * 65536
            state.write(at, text(rng_for(f"snapshots/{number}/{cluster}"), min(65536, guest.size - at)))
        states.append(state)
        only = Guest(guest.size)
        for cluster in own:
            at = cluster * 65536
            only.write(at, state.read(at, min(65536, guest.size - at)))
        files.append(file(f"snapshots.hdd/snapshots.{number}.hds", kit.parallels(flat(state), own=own), only))
    images = [(base, "Plain", "snapshots.0.hds"), (middle, "Compressed", "snapshots.1.hds"), (kit.GUID, "Compressed", "snapshots.2.hds")]
    shots = [(kit.GUID, middle.upper()), (middle, base), (base, none)]
    bundle("snapshots.hdd", states[2], kit.descriptor([(0, 1000, 128, images)], shots), "two snapshots below the current state", *files)
    xml = kit.descriptor([(0, 1000, 128, [(g, k, "../snapshots.hdd/" + f) for g, k, f in images])], shots, top=middle)
    bundle("earlier.hdd", states[1], xml, "the files of snapshots.hdd, of which an earlier state is the current one", *files[:2])

    lone = [(0, 1000, 128, [(kit.GUID, "Compressed", "../single.hdd/single.hds")])]
    for name, xml, expect, comment in (
        ("gap", kit.descriptor([parts[0], (700, 1000, *parts[1][2:])], [(kit.GUID, none)]), "refuse-corrupt", "a part is missing"),
        ("loop", kit.descriptor([(0, 1000, 128, images)], [(kit.GUID, middle), (middle, kit.GUID)]), "refuse-corrupt",
         "two snapshots are each other's parent"),
        ("padding", kit.descriptor(lone, [(kit.GUID, none)], parameters="<Padding>1</Padding>"), "refuse-unsupported",
         "padding is not described"),
        ("encrypted", kit.descriptor(lone, [(kit.GUID, none)],
                                     parameters="<Encryption><Engine>{00000000-0000-0000-0000-000000000001}</Engine></Encryption>"),
         "refuse-encrypted", "names an engine of encryption"),
    ):
        bundle(f"{name}.hdd", guest, xml, comment, expect=expect)


def bochs(make: Factory) -> None:
    one = maker(make, "bochs")
    guest = pieces("bochs/hand", 1000 * 512, 0, 100_000, 400_000)
    guest.write(200_192, b"\xff" * 512)
    data = flat(guest)
    one("version-2", guest, kit.bochs(data, backwards=True), "sectors of zeros are left out", "growing")
    one("version-1", guest, kit.bochs(data, version=0x10000), "the header of Bochs before 2.4", "growing")
    one("large-extents", guest, kit.bochs(data, extent=1 << 18, catalog=300), "a catalog larger than the disk needs", "growing")
    one("odd-extents", guest, kit.bochs(data, extent=24 * 512, bitmap=700), "extents of 24 sectors, bitmaps of two", "growing", qemu="refuses")
    one("one-sector", guest, kit.bochs(data, extent=512), "extents of one sector", "growing")
    one("full", guest, kit.bochs(data, whole=range(1000)), "every sector is in the file", "growing")
    one("empty", Guest(0), kit.bochs(b""), "a disk of no bytes", "growing")
    small = Guest.of(data[:700])
    one("odd-bytes", small, kit.bochs(flat(small)), "the size is no multiple of 512", "odd-size", qemu="rounds-size")
    one("undoable", guest, kit.bochs(data, subtype="Undoable"), "a redolog upon another disk", expect="refuse-unsupported",
        qemu="refuses")
    one("cut", guest, kit.bochs(data)[:-512 * 6], "the last sectors are missing; qemu reads zeros", "damaged", expect="refuse-corrupt",
        qemu="wrong")


def cloop(make: Factory) -> None:
    one = maker(make, "cloop")
    guest = pieces("cloop/hand", 768 * KIB, 0, 100_000, 400_000)
    data = flat(guest)
    one("blocks-64k", guest, kit.cloop(data), "blocks of 64 KiB", "compressed")
    one("blocks-512", guest, kit.cloop(data, block=512), "blocks of one sector", "compressed")
    one("blocks-1536", guest, kit.cloop(data, block=1536), "blocks of three sectors", "compressed")
    one("one-block", guest, kit.cloop(data, block=768 * KIB), "one block", "compressed")
    noise = Guest.of(rng_for("cloop/noise").randbytes(40 * 512))
    one("stored", noise, kit.cloop(flat(noise), block=4096, level=0), "what does not shrink", "compressed")
    one("empty", Guest(0), kit.cloop(b""), "a disk of no bytes", "compressed")
    cut = kit.cloop(data)
    one("cut", guest, cut[:-1], "the last byte is missing", "damaged", expect="refuse-corrupt", qemu="refuses")
    wrong = kit.cloop(data)
    struct.pack_into(">Q", wrong, 136 + 8 * 3, 200)
    one("backwards", guest, wrong, "an offset lies before the one before it", "damaged", expect="refuse-corrupt", qemu="refuses")


def android(make: Factory) -> None:
    one = maker(make, "android-sparse", ".simg")
    guest = pieces("android/hand", 200 * 4096, 0, 100_000, 400_000)
    guest.write(600_000 // 4096 * 4096, b"\xde\xad\xbe\xef" * 7168)
    data = flat(guest)
    blocks = [data[at:at + 4096] for at in range(0, len(data), 4096)]
    chunks: list[tuple[str, int]] = []
    for block in blocks:
        kind = "skip" if not any(block) else "fill" if block == block[:4] * 1024 else "raw"
        if chunks and chunks[-1][0] == kind:
            chunks[-1] = (kind, chunks[-1][1] + 1)
        else:
            chunks.append((kind, 1))
    no = dict(qemu="refuses")  # qemu does not know the format
    one("plain", guest, kit.simg(data, chunks), "raw, fill and don't-care chunks", **no)
    with_sums = [part for chunk in chunks for part in (chunk, ("crc", 0))]
    one("checksums", guest, kit.simg(data, with_sums, checksum=zlib.crc32(data)), "a checksum behind each chunk, and in the header", **no)
    zeros = [("fill", count) if kind == "skip" else (kind, count) for kind, count in chunks]
    one("zero-fill", guest, kit.simg(data, zeros, header=40, chunk_header=16), "zeros as patterns, longer headers", **no)
    one("blocks-1k", guest, kit.simg(data, [("raw", 400), ("raw", 400)], block=1024), "blocks of 1 KiB", **no)
    one("empty", Guest(0), kit.simg(b"", []), "a disk of no bytes", **no)
    wrong = kit.simg(data, with_sums)
    wrong[-1] ^= 1
    one("wrong-sum", guest, wrong, "the last checksum is wrong, the data are not", **no)
    half = [(kind, count) for kind, count in chunks[:-1]]
    for name, image, comment, expect in (
        ("short", kit.simg(data, half), "the last chunk is missing", "refuse-corrupt"),
        ("cut", kit.simg(data, [("raw", 200)])[:-1], "the last byte is missing", "refuse-corrupt"),
        ("too-many", kit.simg(data, chunks, total=150), "more blocks than the disk has", "refuse-corrupt"),
        ("unknown-chunk", kit.simg(data, [*chunks[:-1], ("unknown", chunks[-1][1])]), "a chunk of an unknown type", "refuse-unsupported"),
        ("version-2", kit.simg(data, chunks, version=2), "an unknown version", "refuse-unsupported"),
    ):
        one(name, guest, image, comment, "damaged", expect=expect, **no)


def luks(make: Factory) -> None:
    """Containers of cryptsetup; of their key slots nothing is kept."""
    def strip(image: Image, start: int, end: int) -> None:
        image.edit("the key material as zeros", lambda data: data.__setitem__(slice(start, end), bytes(end - start)))

    def container(name: str, *options: str) -> Image:
        image = make.image(f"luks/{name}.luks", 0, "luks", format="luks", expect="refuse-encrypted", qemu="refuses", comment="made by cryptsetup")
        (image.path.parent / "key").write_bytes(b"test-only")
        image.tool("truncate", "-s", "20M", image.path.name)
        image.tool("cryptsetup", "luksFormat", "-q", *options, image.path.name, "key")
        (image.path.parent / "key").unlink()
        return image

    one = container("version-1", "--type", "luks1", "--pbkdf-force-iterations", "1000")
    strip(one, 4096, 2 * MIB)
    one.guest = Guest(18 * MIB)
    essiv = container("version-1-essiv", "--type", "luks1", "--pbkdf-force-iterations", "1000", "-c", "aes-cbc-essiv:sha256", "-s", "128")
    strip(essiv, 4096, 2 * MIB)
    essiv.guest = Guest(19 * MIB)
    two = container("version-2", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--luks2-metadata-size", "16k",
                    "--luks2-keyslots-size", "512k", "--label", "my disk")
    strip(two, 32 * KIB, MIB)
    two.guest = Guest(19 * MIB)
    argon = container("version-2-argon2", "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32",
                      "--luks2-keyslots-size", "512k", "--sector-size", "512")
    strip(argon, 32 * KIB, MIB)
    argon.guest = Guest(19 * MIB)


GROUPS = [qcow, qed, parallels, bochs, cloop, android, luks]
