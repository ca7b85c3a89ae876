"""The raw and qcow2 images."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from guest import GIB, KIB, MIB, TIB, Guest, content, mbr, rng_for, scatter, text, units
from imagekit import Factory, Image
from qcow2kit import Qcow2Header
from vdikit import fix_vdi
from vhdkit import fix_vhd
from vhdxkit import fix_vhdx
from vmdkkit import fix_vmdk

def bytes_of(size: str) -> int:
    """'64k' -> 65536."""
    return int(size[:-1]) << {"k": 10, "M": 20}[size[-1]] if size[-1] in "kM" else int(size)


# --- raw -------------------------------------------------------------------

def gpt(size: int) -> Guest:
    """A disk with a protective MBR, two partitions, and both GPT copies with right CRCs."""
    guest, last = Guest(size), size // 512 - 1
    linux = bytes.fromhex("af3dc60f838472478e793d69d8477de4")  # 0FC63DAF-8483-4772-8E79-3D69D8477DE4
    efi = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")  # C12A7328-F81F-11D2-BA4B-00A0C93EC93B
    entries = b""
    for kind, number, first, end, name in [(efi, 1, 64, 255, "EFI system"), (linux, 2, 256, last - 64, "root")]:
        entries += struct.pack("<16s16sQQQ72s", kind, bytes([number]) * 16, first, end, 0, name.encode("utf-16-le"))
        guest.write(first * 512, text(rng_for(name), 20_000))
    entries = entries.ljust(128 * 128, b"\0")

    def header(own: int, other: int, table: int) -> bytes:
        def pack(crc: int) -> bytes:
            return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, own, other, 34, last - 33,
                               b"diskimage-gpt-00", table, 128, 128, zlib.crc32(entries))
        return pack(zlib.crc32(pack(0)))

    guest.write(0, mbr(last + 1, 1, 0xEE))
    guest.write(512, header(1, last, 2))
    guest.write(1024, entries)
    guest.write((last - 32) * 512, entries)
    guest.write(last * 512, header(last, 1, last - 32))
    return guest


def raw_images(make: Factory) -> None:
    def raw(name: str, guest: Guest, feature: str, comment: str, **more: Any) -> None:
        image = make.image(f"raw/{name}", guest.size, feature, format="raw", comment=comment, **more)
        image.guest = guest
        image.save_raw(comment)

    disk = content("mbr", MIB)
    disk.write(0, mbr(disk.size // 512, 63))
    raw("mbr.raw", disk, "mbr", "boot sector with one Linux partition from LBA 63")
    raw("gpt.raw", gpt(MIB), "gpt", "protective MBR, primary and backup GPT, an EFI and a Linux partition")
    raw("odd.raw", content("odd", 1_000_001), "odd-size", "size is no multiple of 512", qemu="rounds-size")
    raw("one-byte.raw", Guest.of(b"\x42"), "odd-size", "a single byte 0x42", qemu="rounds-size")
    raw("empty.raw", Guest(0), "empty", "no bytes at all")
    sparse = Guest(4 * MIB)
    for offset in (0, MIB + 4096, 3 * MIB + 64 * KIB):
        sparse.write(offset, text(rng_for(f"sparse{offset}"), 8192))
    raw("sparse.raw", sparse, "sparse", "8 KiB of text at 0, 1 MiB + 4 KiB and 3 MiB + 64 KiB, holes between; "
        "storing it loses the holes, so a test has to punch them again")


# --- qcow2: one table for the images that differ in creation options only ----

CLUSTERS = ["512", "1k", "2k", "4k", "8k", "64k", "256k", "2M"]

PLAIN: list[tuple[str, str, str, list[str]]] = [  # name, cluster size, create options, features
    ("v2-plain-64k", "64k", "compat=0.10", ["v2"]),
    ("v3-plain-64k", "64k", "compat=1.1", ["v3"]),
    *[(f"v3-cluster-{c}", c, f"cluster_size={c}", ["v3"]) for c in CLUSTERS if c != "64k"],
    *[(f"v3-refcount-{b}", "64k", f"refcount_bits={b}", ["v3", f"refcount={b}"]) for b in (1, 2, 4, 8, 32, 64)],
    *[(f"v3-prealloc-{p}", "64k", f"preallocation={p}", ["v3", f"preallocation={p}"])
      for p in ("metadata", "falloc", "full")],
]

COMPRESSED = [  # name, cluster size, further options, features, virtual size
    ("v2-zlib-64k", "64k", "compat=0.10", ["v2", "zlib"], 2 * MIB),
    ("v3-zlib-512", "512", "", ["v3", "zlib"], 512 * KIB),
    ("v3-zlib-4k", "4k", "", ["v3", "zlib"], MIB),
    ("v3-zlib-64k", "64k", "", ["v3", "zlib"], 2 * MIB),
    ("v3-zlib-2M", "2M", "", ["v3", "zlib"], 8 * MIB),
    ("v3-zstd-4k", "4k", "compression_type=zstd", ["v3", "zstd"], MIB),
    ("v3-zstd-64k", "64k", "compression_type=zstd", ["v3", "zstd"], 2 * MIB),
    ("v3-zstd-2M", "2M", "compression_type=zstd", ["v3", "zstd"], 8 * MIB),
    ("v3-zlib-64k-odd-end", "64k", "", ["v3", "zlib", "odd-size"], 1_000_448),
    ("v3-zstd-64k-odd-end", "64k", "compression_type=zstd", ["v3", "zstd", "odd-size"], 1_000_448),
    ("v3-extl2-zlib-64k", "64k", "extended_l2=on", ["v3", "extended-l2", "zlib"], 2 * MIB),
    ("v3-extl2-zstd-16k", "16k", "extended_l2=on,compression_type=zstd", ["v3", "extended-l2", "zstd"], MIB),
]


def compressed(make: Factory, row: tuple[str, str, str, list[str], int], suffix: str = "", **more: Any) -> Image:
    name, cluster, options, features, size = row
    step = bytes_of(cluster)
    guest = content(name, size, step, 12)
    if step == 4 * KIB:  # many small packed clusters, some too noisy to shrink
        guest.write(300 * KIB + 17, text(rng_for(name + "packed"), 150 * KIB))
        guest.write(500 * KIB, rng_for(name + "noise").randbytes(8 * KIB))
    image = make.image(f"qcow2/{name}{suffix}.qcow2", size, *features, f"cluster={cluster}", **more)
    return image.convert(guest, f"cluster_size={cluster}" + ("," + options if options else ""), "-c")


def tables(make: Factory) -> None:
    for name, cluster, options, features in PLAIN:
        size = 8 * MIB if cluster == "2M" else 2 * MIB if "prealloc" not in name else MIB
        image = make.image(f"qcow2/{name}.qcow2", size, *features, f"cluster={cluster}")
        image.create(options).scatter(bytes_of(cluster))
    for row in COMPRESSED:
        compressed(make, row)
    rows = {row[0]: row for row in COMPRESSED}
    for name in ("v3-zlib-64k", "v3-zlib-4k", "v3-zstd-64k"):
        image = compressed(make, rows[name], "-mixed", comment="compressed, then partly overwritten by plain clusters")
        image.features.append("mixed")
        image.write(*units(image.rng, image.guest.size, 4 * KIB, 5)).write((70_000, b"overwritten")).io()
    image = compressed(make, rows["v3-zlib-64k-odd-end"], "-patched", qemu="rounds-size", comment="ends inside a sector")
    image.patch_size(1_000_001)


# --- qcow2: special cases ----------------------------------------------------

def cloud(make: Factory) -> None:
    rng, size = rng_for("cloud"), 64 * MIB
    guest = Guest(size)
    for _ in range(26):
        guest.write(rng.randrange(MIB, size - 200 * KIB), text(rng, rng.randrange(20_000, 60_000)))
    guest.write(MIB, b"\xebX\x90 diskimage sample root file system\n" + text(rng, 30_000))
    guest.write(40 * MIB + 100, rng.randbytes(6_000))
    guest.write(0, mbr(size // 512))
    image = make.image("cloud.qcow2", size, "v3", "cluster=64k", "zlib", "mbr", plain=True,
                       comment="the README sample, laid out like a distribution's cloud image")
    image.convert(guest, "", "-c")


def odd_sizes(make: Factory) -> None:
    make.image("qcow2/v3-empty.qcow2", 0, "v3", "cluster=64k", "empty").create()
    for size in (1, 513, 70_001):
        image = make.image(f"qcow2/v3-size-{size}.qcow2", 128 * KIB, "v3", "cluster=64k", "odd-size",
                           qemu="rounds-size", comment="the last cluster holds data past the disk's end")
        image.create().write((0, text(image.rng, 128 * KIB))).patch_size(size)
    image = make.image("qcow2/v3-size-1000448.qcow2", 1_000_448, "v3", "cluster=64k", "odd-size",
                       comment="whole sectors, but no whole number of clusters")
    image.create().scatter()


def zeros(make: Factory) -> None:
    size = 2 * MIB

    def with_zeros(image: Image) -> None:
        cluster = 64 * KIB
        image.zero(3 * cluster, 2 * cluster, "write -z").zero(6 * cluster, 2 * cluster, "write -z -u")
        image.zero(9 * cluster, 2 * cluster, "discard").zero(12 * cluster + 700, 90_000, "write -z")
        image.write((10 * cluster + 33, b"written again after the discard")).zero(20 * cluster, cluster, "write -z").io()

    image = make.image("qcow2/v3-zeros.qcow2", size, "v3", "cluster=64k", "zero-clusters",
                       comment="allocated clusters made plain zero, preallocated zero, and discarded; zeros over a hole")
    image.create().scatter().write((100_000, text(image.rng, 900_000)))
    with_zeros(image)
    image = make.image("qcow2/v3-zeros-overlay.qcow2", size, "v3", "cluster=64k", "zero-clusters", "backing",
                       comment="zero clusters hide the parent's data")
    image.create("", "base.raw", "raw").write((150_000, text(image.rng, 300_000)))
    with_zeros(image)
    image = make.image("qcow2/v2-discard.qcow2", size, "v2", "cluster=64k", "discard")
    image.create("compat=0.10").scatter().write((100_000, text(image.rng, 500_000)))
    image.zero(3 * 65536, 2 * 65536, "discard").zero(6 * 65536, 65536, "write -z -u").zero(300_100, 5_000)


def extended_l2(make: Factory) -> None:
    def fill(image: Image, cluster: int) -> None:
        part, size = cluster // 32, image.guest.size
        image.write(*units(image.rng, size, part, 12)).write(*units(image.rng, size, 4 * KIB, 6))
        image.write((5 * cluster, text(image.rng, 5 * cluster)), (size - part - 9, text(image.rng, part + 9)))
        image.zero(5 * cluster + part, part).zero(5 * cluster + 4 * part, 3 * part, "write -z -u")
        image.zero(6 * cluster, cluster, "discard").zero(7 * cluster, 2 * cluster, "write -z")
        image.zero(12 * cluster + 2 * part, part).write((7 * cluster + 3 * part, text(image.rng, part))).io()

    for cluster in ("16k", "64k", "128k"):
        image = make.image(f"qcow2/v3-extl2-{cluster}.qcow2", 4 * MIB, "v3", "extended-l2", f"cluster={cluster}",
                           comment="writes, zeros and discards of single subclusters")
        fill(image.create(f"extended_l2=on,cluster_size={cluster}"), bytes_of(cluster))
    image = make.image("qcow2/v3-extl2-overlay.qcow2", 2 * MIB, "v3", "extended-l2", "cluster=64k", "backing",
                       comment="one cluster mixes own, zero and parent's subclusters")
    fill(image.create("extended_l2=on", "base.raw", "raw"), 64 * KIB)


def backing(make: Factory) -> None:
    size = 2 * MIB

    def overlay(name: str, base: str, base_format: str, *features: str, size: int = size, options: str = "",
                comment: str = "") -> Image:
        features = features if "v2" in features else ("v3", *features)
        image = make.image(f"qcow2/{name}.qcow2", size, *features, "cluster=64k", "backing", comment=comment)
        image.create(options, base, base_format)
        return image.write((66_000, text(image.rng, 9_000)), (size - 5_000, image.rng.randbytes(500)),
                           (size // 2 + 5, bytes(3_000))).io()

    def no_format(image: Image) -> None:
        def drop(header: Qcow2Header) -> None:
            header.extensions = [e for e in header.extensions if e[0] != Qcow2Header.EXT_BACKING_FORMAT]
        image.patch("backing format extension removed", drop)

    for name, odd in (("base.raw", size), ("base-odd.raw", 1_000_001), ("inner-base.raw", MIB)):
        place = "qcow2/sub/" if name.startswith("inner") else "qcow2/"
        image = make.image(place + name, odd, "parent", format="raw", qemu="ok" if odd % 512 == 0 else "rounds-size")
        image.guest = content(name, odd)
        image.save_raw("generated")

    overlay("overlay-raw", "base.raw", "raw")
    overlay("overlay-qcow2", "v3-plain-64k.qcow2", "qcow2")
    overlay("overlay-chain", "overlay-raw.qcow2", "qcow2", "chain=3", comment="base.raw <- overlay-raw <- this")
    overlay("overlay-zlib", "v3-zlib-64k.qcow2", "qcow2", comment="over a compressed parent")
    overlay("overlay-longer", "base.raw", "raw", size=3 * MIB + 512, comment="zeros past the parent's end")
    overlay("overlay-shorter", "base.raw", "raw", size=MIB + 1536, comment="the parent's tail is cut off")
    overlay("overlay-odd-parent", "base-odd.raw", "raw", comment="the parent ends inside a sector")
    overlay("overlay-odd-qcow2-parent", "v3-size-1000448.qcow2", "qcow2", comment="the parent ends inside a cluster")
    overlay("overlay-v2", "v2-plain-64k.qcow2", "qcow2")
    overlay("overlay-v2-over-v2", "v2-plain-64k.qcow2", "qcow2", "v2", options="compat=0.10")
    overlay("overlay-cluster-512", "v3-cluster-512.qcow2", "qcow2", comment="its own clusters are 64 KiB, the parent's 512 bytes")
    overlay("sub/child", "../base.raw", "raw", comment="backing name climbs out of the folder")
    overlay("sub/inner", "inner-base.raw", "raw", size=MIB, comment="backing name is relative to the image, not to the caller")
    overlay("overlay-inner", "sub/inner.qcow2", "qcow2", "chain=3", size=MIB, comment="a chain through a subfolder")
    no_format(overlay("overlay-raw-no-format", "base.raw", "raw", comment="the parent's format has to be guessed"))
    no_format(overlay("overlay-qcow2-no-format", "v3-plain-64k.qcow2", "qcow2", comment="the parent's format has to be guessed"))

    image = make.image("qcow2/base.vmdk", size, "monolithicSparse", "parent", format="vmdk", comment="CID set to a fixed one")
    image.convert(content("vmdk", size), "subformat=monolithicSparse")
    fix_vmdk(image, 0x1BADD00D)
    image = make.image("qcow2/base.vhd", size, "dynamic", "parent", format="vpc", comment="time and UUID set to fixed ones")
    image.convert(content("vhd", size), "subformat=dynamic,force_size=on")
    fix_vhd(image, b"diskimage-vhd-00")
    image = make.image("qcow2/base.vhdx", size, "dynamic", "parent", format="vhdx", comment="GUIDs set to fixed ones")
    fix_vhdx(image.convert(content("vhdx", size), "subformat=dynamic,block_size=1M"))
    image = make.image("qcow2/base.vdi", size, "dynamic", "parent", format="vdi", comment="UUIDs set to fixed ones")
    fix_vdi(image.convert(content("vdi", size)))
    overlay("overlay-vhdx", "base.vhdx", "vhdx")
    overlay("overlay-vdi", "base.vdi", "vdi")
    overlay("overlay-vmdk", "base.vmdk", "vmdk")
    overlay("overlay-vhd", "base.vhd", "vpc")


def data_files(make: Factory) -> None:
    for name, raw in (("data-file", False), ("data-file-raw", True)):
        image = make.image(f"qcow2/{name}.qcow2", 2 * MIB, "v3", "cluster=64k", name, comment="the data lives in another file")
        image.create(f"data_file={name}.raw" + (",data_file_raw=on" if raw else "")).scatter()
        image.zero(2 * 65536, 65536, "write -z").zero(1_000_000, 50_000, "write -z -u").io()
        data = (image.path.parent / f"{name}.raw").read_bytes()
        file = make.image(f"qcow2/{name}.raw", len(data), "data-file", format="raw",
                          comment=f"data file of {name}.qcow2, seen as a raw image" + (
                              "" if raw else "; zeroed clusters may still hold stale bytes here"))
        file.guest, file.commands = Guest.of(data), [f"[made along with {name}.qcow2]"]
        image.needs(file)


def snapshots(make: Factory) -> None:
    size = 2 * MIB

    def step(image: Image) -> Image:
        return image.write((100_000, text(image.rng, 7_000)), *units(image.rng, size, 4 * KIB, 2))

    image = make.image("qcow2/v3-snapshots.qcow2", size, "v3", "cluster=64k", "snapshots",
                       comment="the first snapshot is older than a resize")
    step(image.create().scatter().snapshot("first"))
    image.resize(3 * MIB).write((3 * MIB - 999, text(image.rng, 999))).snapshot("after resize")
    image.zero(65536, 65536, "write -z -u").zero(26 * 65536, 65536, "discard").snapshot("zeros")
    step(image)
    image = make.image("qcow2/v2-snapshot.qcow2", size, "v2", "cluster=64k", "snapshots")
    step(image.create("compat=0.10").scatter().snapshot("base"))
    image = make.image("qcow2/v3-snapshot-names.qcow2", size, "v3", "cluster=64k", "snapshots",
                       comment="snapshot names with spaces and beyond ASCII")
    step(step(image.create().scatter(count=2).snapshot("avant la mise à jour ☃")).snapshot("更新 後"))
    image = make.image("qcow2/v3-snapshot-zlib.qcow2", size, "v3", "cluster=64k", "zlib", "snapshots",
                       comment="the snapshot shares compressed clusters")
    step(image.convert(content("snapshot-zlib", size), "", "-c").snapshot("compressed"))


def feature_bits(make: Factory) -> None:
    size, incompatible = MIB, 72
    image = make.image("qcow2/v3-dirty.qcow2", size, "v3", "cluster=64k", "dirty", "lazy-refcounts",
                       comment="marked as not closed, but all in order")
    image.create("lazy_refcounts=on").scatter().patch("dirty bit set", lambda h: h.set_bit(incompatible, 0))
    image = make.image("qcow2/v3-dirty-crash.qcow2", size, "v3", "cluster=64k", "dirty", "lazy-refcounts", check=(2, 3),
                       comment="qemu-io was killed after a flush: refcounts are stale, mappings are right")
    image.create("lazy_refcounts=on").scatter().io("flush", "sigraise 9", ok=(-9,))
    image = make.image("qcow2/v3-corrupt-bit.qcow2", size, "v3", "cluster=64k", "corrupt", expect="refuse-corrupt-bit",
                       comment="qemu reads it, but will not write to it")
    image.create().scatter(count=2).patch("corrupt bit set", lambda h: h.set_bit(incompatible, 1))

    def quantum(header: Qcow2Header) -> None:
        name = struct.pack(">BB46s", 0, 7, b"quantum clusters")
        header.extensions = [(kind, body + name if kind == Qcow2Header.EXT_FEATURE_NAMES else body)
                             for kind, body in header.extensions]
        header.set_bit(incompatible, 7)

    image = make.image("qcow2/v3-unknown-feature.qcow2", size, "v3", "cluster=64k", "unknown-incompatible",
                       expect="refuse-unknown-feature", qemu="refuses",
                       comment="incompatible bit 7, named in the feature name table")
    image.create().scatter(count=2).patch("incompatible bit 7 set and named 'quantum clusters'", quantum)
    image = make.image("qcow2/v3-unknown-extension.qcow2", size, "v3", "cluster=64k", "unknown-extension",
                       comment="an extension of unknown type has to be skipped")
    image.create().scatter(count=2).patch("header extension 0x51444953 put first", lambda h: h.extensions.insert(
        0, (0x51444953, b"not for you, 29 bytes long...")))

    def short(header: Qcow2Header) -> None:
        del header.fields[104:]

    image = make.image("qcow2/v3-header-104.qcow2", size, "v3", "cluster=64k", "header=104",
                       comment="as old qemu wrote it: no compression type field")
    image.convert(content("header-104", size), "", "-c").patch("header cut to 104 bytes", short)

    image = make.image("qcow2/v3-bitmaps.qcow2", size, "v3", "cluster=64k", "bitmaps",
                       comment="two persistent bitmaps, the second one disabled")
    image.create().scatter(count=2).io()
    image.tool("qemu-img", "bitmap", "--add", "-g", "64k", image.path.name, "backup-daily")
    image.tool("qemu-img", "bitmap", "--add", "--disable", "-g", "128k", image.path.name, "backup weekly")
    image.write((200_000, text(image.rng, 4_000)))


def encrypted(make: Factory) -> None:
    luks = "encrypt.format=luks,encrypt.key-secret=key0,encrypt.iter-time=10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc"
    for name, options in (("luks", luks), ("aes", "encrypt.format=aes,encrypt.key-secret=key0")):
        version, compat = ("v2", "compat=0.10,") if name == "aes" else ("v3", "")
        image = make.image(f"qcow2/{version}-{name}.qcow2", 256 * KIB, version, "cluster=64k", "encrypted", name,
                           expect="refuse-encrypted", comment="the secret is 'test-only'; checked with qemu using it")
        image.create(compat + options).write((5_000, text(image.rng, 3_000)))


def large(make: Factory) -> None:
    for label, size in (("8G", 8 * GIB), ("1T", TIB), ("64T", 64 * TIB)):
        image = make.image(f"qcow2/v3-sparse-{label}.qcow2", size, "v3", "cluster=64k", "large")
        image.create()
        places = [0, size // 3 // 512 * 512, 5 * GIB + 777 * 512, size - 2048]
        for offset in places:
            image.write((offset, text(image.rng, 2000)))
        if size > 8 * GIB:
            image.samples = [(offset // 4096 * 4096, 4096) for offset in places] + [(size // 2, 64 * KIB), (size - 512, 512)]
            image.comment = "too large to hash whole: see samples"


def mixed(make: Factory) -> None:
    for name, base, qemu, comment in (
            ("over-vmdk-delta", "vmdk/delta-chain.vmdk", "ok", ""),
            ("over-vmdk-cowd", "vmdk/vmfs-sparse-over.vmdk", "ok", ""),
            ("over-vmdk-mixed", "vmdk/multi-mixed.vmdk", "wrong", "qemu reads the parent wrongly"),
            ("over-vhd-diff", "vhd/diff-3.vhd", "wrong", "qemu reads the parent as if it were a dynamic disk"),
            ("over-vhdx-diff", "vhdx/diff.vhdx", "refuses", "qemu refuses the parent"),
            ("over-vdi-diff", "vdi/diff-3.vdi", "refuses", "qemu refuses the parent")):
        parent = make.images[base]
        image = make.image(f"mixed/{name}.qcow2", parent.guest.size, "v3", "cluster=64k", "backing", "mixed",
                           *(["parent-by-uuid"] if parent.format == "vdi" else []), qemu=qemu, comment=comment)
        own = [(65536 * n, text(image.rng, 65536)) for n in (1, 5, parent.guest.size // 65536 - 1)]
        image.create().write(*own).io()
        image.tool("qemu-img", "rebase", "-u", "-b", "../" + base, "-F", parent.format, image.path.name)
        image.guest = parent.guest.resized(parent.guest.size)
        for at, data in own:
            image.guest.write(at, data)
        image.needs(parent)


GROUPS = [mixed, raw_images, cloud, tables, odd_sizes, backing, zeros, extended_l2, data_files, snapshots, feature_bits,
          encrypted, large]
