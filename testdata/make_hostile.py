#!/usr/bin/env python3
"""Make hostile and odd images: what a stranger may send.

    python3 testdata/make_hostile.py FOLDER

Writes the images and `manifest.jsonl`, a line a case: `file`, `format`, `open_as` (the format to force, or null),
`class`, `attack` (what is odd), `expected` and, for `must_flag`, the finding codes in `flags`:

- must_reject_open: an error when it is opened or read;
- must_reject_by_policy: refused, since it names another file, unless outside references are allowed;
- must_flag: the hazard is reported by its code;
- must_open_same_content: odd but valid, with the hash in `guest_sha256`;
- must_not_hang_or_balloon: any clean result within a second and 64 MiB.

`refused_if_allowed` says that it is refused also where files of its own folder are allowed.

Needs nothing but Python: every image is written by hand, and every checksum that a change breaks is made anew, so
that the change itself is met. Nothing is kept in the tree, since the same images come out each time.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

sys.dont_write_bytecode = True

import hostile_more
import hostile_relatives
import vdikit
import vhdkit
import vhdxkit
import vmdkkit
from hostilekit import CLUSTER, DISK, KIB, MIB, OUTSIDE, Set, extension, qcow2


def make_qcow2(out: Set) -> None:
    base = qcow2()
    out.add("q2-plain", "qcow2", base, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)
    for bits in (12, 21):
        out.add(f"q2-bits-{bits}", "qcow2", qcow2(bits=bits), "must_open_same_content", f"clusters of {1 << bits} bytes",
                kind="plain", same=DISK)
    out.sweep("q2", "qcow2", base, {
        "version": (4, ">I"), "backing-offset": (8, ">Q"), "backing-length": (16, ">I"), "cluster-bits": (20, ">I"),
        "size": (24, ">Q"), "crypt": (32, ">I"), "l1-size": (36, ">I"), "l1-offset": (40, ">Q"), "rt-offset": (48, ">Q"),
        "rt-clusters": (56, ">I"), "snapshots": (60, ">I"), "snapshots-offset": (64, ">Q"), "incompatible": (72, ">Q"),
        "compatible": (80, ">Q"), "autoclear": (88, ">Q"), "refcount-order": (96, ">I"), "header-length": (100, ">I"),
        "l1-entry": (3 * CLUSTER, ">Q"), "l2-entry": (4 * CLUSTER, ">Q"), "rt-entry": (CLUSTER, ">Q")})
    out.cuts("q2", "qcow2", base, [3, 4, 71, 72, 103, 104, 3 * CLUSTER, 4 * CLUSTER + 8, 5 * CLUSTER, len(base) - CLUSTER])
    for name, path in OUTSIDE.items():
        out.add(f"q2-backing-{name}", "qcow2", qcow2(backing=path), "must_reject_by_policy", f"backing file {path[:40]!r}",
                kind="external-backing")
        out.add(f"q2-backing-flag-{name}", "qcow2", qcow2(backing=path), "must_flag", f"backing file {path[:40]!r}",
                kind="external-backing", flags=["backing-file", "external-reference"])
        data_file = qcow2(incompatible=4, extensions=extension(0x44415441, path))
        out.add(f"q2-data-file-{name}", "qcow2", data_file, "must_reject_by_policy", f"data file {path[:40]!r}",
                kind="external-data-file")
    for bit, (flag, verdict) in {0: ("dirty", "must_flag"), 1: ("corrupt", "must_flag")}.items():
        out.add(f"q2-bit-{bit}", "qcow2", qcow2(incompatible=1 << bit), verdict, f"incompatible bit {bit}", kind="qcow2-state",
                flags=[flag])
    out.add("q2-bit-1-read", "qcow2", qcow2(incompatible=2), "must_reject_open", "marked as corrupt", kind="qcow2-state")
    for bit in (5, 6, 31, 63):
        out.add(f"q2-bit-{bit}", "qcow2", qcow2(incompatible=1 << bit), "must_reject_open", f"unknown incompatible bit {bit}",
                kind="qcow2-state")
    for crypt in (1, 2, 3):
        out.add(f"q2-crypt-{crypt}", "qcow2", qcow2(crypt=crypt), "must_reject_open", f"encrypted, method {crypt}",
                kind="qcow2-state")
    plain = DISK[:CLUSTER]
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    good = packer.compress(plain) + packer.flush()
    bomb = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = {"short": good[:len(good) // 2], "empty": b"", "garbage": bytes(range(1, 255)) * 4, "wrapped": zlib.compress(plain),
              "too-little": zlib.compress(plain[:-1])[2:-4], "stored-cut": b"\x01\xff\xff\x00\x00" + b"x" * 64}
    for name, data in packed.items():
        out.add(f"q2-packed-{name}", "qcow2", qcow2(compressed=data or b"\0"), "must_reject_open", f"compressed data: {name}",
                kind="qcow2-compressed")
    out.add("q2-packed-good", "qcow2", qcow2(compressed=good), "must_open_same_content", "one compressed cluster",
            kind="plain", same=DISK)
    out.add("q2-packed-bomb", "qcow2", qcow2(compressed=bomb.compress(bytes(16 * MIB)) + bomb.flush()),
            "must_not_hang_or_balloon", "a cluster that inflates to 16 MiB", kind="bomb")
    for name, body in {"length-max": extension(0xE2792ACA, b"raw", 0xFFFFFFFF), "length-cluster": extension(1, b"", CLUSTER),
                       "luks-short": extension(0x0537BE77, b"x"), "bitmaps-short": extension(0x23852875, b"x"),
                       "data-file-empty": extension(0x44415441, b"")}.items():
        out.add(f"q2-extension-{name}", "qcow2", qcow2(extensions=body), "must_not_hang_or_balloon", f"extension: {name}",
                kind="qcow2-extensions")
    for name, cluster in {"header": 0, "refcounts": 2, "l1": 3}.items():
        out.add(f"q2-l2-in-{name}", "qcow2", qcow2(l2_at=cluster) if cluster else qcow2(l2_at=0),
                "must_not_hang_or_balloon", f"the L2 table lies in the {name}", kind="qcow2-overlap")
    shared = qcow2()
    struct.pack_into(">I", shared, 36, CLUSTER // 8)
    struct.pack_into(">Q", shared, 24, (CLUSTER // 8) * (CLUSTER // 8) * CLUSTER)
    struct.pack_into(f">{CLUSTER // 8}Q", shared, 3 * CLUSTER, *[4 * CLUSTER] * (CLUSTER // 8))
    out.add("q2-l2-shared", "qcow2", shared, "must_not_hang_or_balloon", "8192 L1 entries share one L2 table", kind="bomb")


def make_vmdk(out: Set) -> None:
    text = vmdkkit.descriptor("monolithicSparse", [f'RW {MIB // 512} SPARSE "case.vmdk"'], 1)
    base = bytes(vmdkkit.sparse(DISK, text))
    out.add("vmdk-plain", "vmdk", base, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)
    out.sweep("vmdk", "vmdk", base, {
        "version": (4, "<I"), "flags": (8, "<I"), "capacity": (12, "<Q"), "grain": (20, "<Q"), "descriptor-offset": (28, "<Q"),
        "descriptor-size": (36, "<Q"), "gtes": (44, "<I"), "rgd": (48, "<Q"), "gd": (56, "<Q"), "overhead": (64, "<Q"),
        "compress": (77, "<H")})
    out.cuts("vmdk", "vmdk", base, [5, 72, 511, 512, len(base) - 70_000])
    stream = bytes(vmdkkit.stream(DISK, vmdkkit.descriptor("streamOptimized", [f'RDONLY {MIB // 512} SPARSE "case.vmdk"'], 1)))
    out.add("vmdk-stream", "vmdk", stream, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)
    first = 128 * 512
    out.sweep("vmdk-stream", "vmdk", stream, {
        "lba": (first, "<Q"), "grain-size": (first + 8, "<I"), "footer-gd": (len(stream) - 1024 + 56, "<Q"),
        "footer-capacity": (len(stream) - 1024 + 12, "<Q"), "footer-magic": (len(stream) - 1024, "<I")})
    out.cuts("vmdk-stream", "vmdk", stream, [first + 100, len(stream) - 1536, len(stream) - 1024])
    for name, path in OUTSIDE.items():
        for kind in ("FLAT", "SPARSE", "VMFS"):
            line = f'RW {MIB // 512} {kind} "'.encode() + path + b'"' + (b" 0" if kind == "FLAT" else b"")
            data = vmdkkit.descriptor("custom", ["EXTENT"], 1).encode().replace(b"EXTENT", line)
            out.add(f"vmdk-{kind.lower()}-{name}", "vmdk", data, "must_reject_by_policy", f"extent {path[:40]!r}",
                    kind="external-extent", alt=["must_reject_open"])
        data = vmdkkit.descriptor("monolithicSparse", [f'RW {MIB // 512} SPARSE "case.vmdk"'], 1, parent_cid=2,
                                  parent="PARENT").encode().replace(b"PARENT", path)
        image = bytearray(base)
        image[512:512 + vmdkkit.DESCRIPTOR_SECTORS * 512] = data.ljust(vmdkkit.DESCRIPTOR_SECTORS * 512, b"\0")
        out.add(f"vmdk-parent-{name}", "vmdk", image, "must_reject_by_policy", f"parent {path[:40]!r}", kind="external-backing",
                alt=["must_reject_open"])
    odd = {"no-extents": [], "negative": ['RW -1 ZERO'], "huge": [f'RW {1 << 62} ZERO'] * 4, "many": ["RW 1 ZERO"] * 20_000,
           "unclosed": ['RW 2048 FLAT "x'], "no-offset": ['RW 2048 FLAT "x"'], "bad-access": ['RX 2048 ZERO'],
           "bad-type": ['RW 2048 FLUFF "x"'], "nul": ['RW 2048 FLAT "x\0y" 0']}
    for name, lines in odd.items():
        out.add(f"vmdk-extents-{name}", "vmdk", vmdkkit.descriptor("custom", lines, 1).encode(), "must_not_hang_or_balloon",
                f"extent lines: {name}", kind="vmdk-descriptor")
    flood = b"# Disk DescriptorFile\n" + b"x" * (32 * MIB)
    out.add("vmdk-descriptor-long", "vmdk", flood, "must_not_hang_or_balloon", "a descriptor of 32 MiB in one line",
            kind="vmdk-descriptor")


def reseal_footer(data: bytearray) -> None:
    for at in (0, len(data) - 512):
        if data[at:at + 8] == b"conectix":
            struct.pack_into(">I", data, at + 64, vhdkit.checksum(data[at:at + 512], 64))


def reseal_vhd(data: bytearray) -> None:
    struct.pack_into(">I", data, 512 + 36, vhdkit.checksum(data[512:1536], 36))
    reseal_footer(data)


def make_vhd(out: Set) -> None:
    base = bytes(vhdkit.sparse(DISK, "case", block=64 * KIB))
    end = len(base) - 512
    out.add("vhd-plain", "vpc", base, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)
    out.sweep("vhd", "vpc", base, {
        "header-bat": (528, ">Q"), "header-version": (536, ">I"), "header-entries": (540, ">I"), "header-block": (544, ">I"),
        "bat-entry": (1536, ">I")}, reseal_vhd)
    out.sweep("vhd-footer", "vpc", base, {
        "features": (end + 8, ">I"), "version": (end + 12, ">I"), "data-offset": (end + 16, ">Q"), "original": (end + 40, ">Q"),
        "current": (end + 48, ">Q"), "geometry": (end + 56, ">I"), "type": (end + 60, ">I")}, reseal_footer)
    out.cuts("vhd", "vpc", base, [100, 511, 1536, 1700])
    for name, at, flag in (("footer", end, "footer-missing"), ("copy", 0, "footer-missing")):
        data = bytearray(base)
        data[at:at + 512] = bytes(512)
        out.add(f"vhd-no-{name}", "vpc", data, "must_flag", f"the {name} is zeros", kind="vhd-state", flags=[flag])
    twins = bytearray(base)
    struct.pack_into(">Q", twins, 48, MIB // 2)
    reseal_footer(twins)
    out.add("vhd-twins", "vpc", twins, "must_flag", "the two footers name different sizes", kind="vhd-state",
            flags=["footer-mismatch"])
    for name, path in OUTSIDE.items():
        text = path[:200].decode("latin-1")
        child = vhdkit.sparse(DISK, "child", block=64 * KIB, own=lambda n: n < 8, parent=(b"p" * 16, text, text))
        out.add(f"vhd-parent-{name}", "vpc", bytes(child), "must_reject_by_policy", f"parent {path[:40]!r}",
                kind="external-backing")
    fixed = bytes(vhdkit.fixed(DISK, "fixed"))
    out.add("vhd-fixed", "vpc", fixed, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)
    out.cuts("vhd-fixed", "vpc", fixed, [512, MIB // 2])


def vhdx_image() -> vhdxkit.Vhdx:
    return vhdxkit.Vhdx("case", MIB).put(0, DISK)


def make_vhdx(out: Set) -> None:
    base = bytes(vhdx_image().build())
    out.add("vhdx-plain", "vhdx", base, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)

    def reseal(data: bytearray) -> None:
        data[second:second + 4096] = vhdxkit.sealed(data[second:second + 4096])

    def reseal_regions(data: bytearray) -> None:
        data[regions:regions + 64 * KIB] = vhdxkit.sealed(data[regions:regions + 64 * KIB])
    second, regions = vhdxkit.HEADERS[1], vhdxkit.REGION_TABLES[0]
    out.sweep("vhdx", "vhdx", base, {
        "sequence": (second + 8, "<Q"), "log-version": (second + 64, "<H"), "version": (second + 66, "<H"),
        "log-length": (second + 68, "<I"), "log-offset": (second + 72, "<Q"), "log-guid": (second + 48, "<Q")}, reseal)
    out.sweep("vhdx-region", "vhdx", base, {
        "count": (regions + 8, "<I"), "offset": (regions + 32, "<Q"), "length": (regions + 40, "<I"),
        "required": (regions + 44, "<I")}, reseal_regions)
    meta = vhdxkit.META_AT
    out.sweep("vhdx-metadata", "vhdx", base, {
        "count": (meta + 10, "<H"), "item-offset": (meta + 48, "<I"), "item-length": (meta + 52, "<I"),
        "item-flags": (meta + 56, "<I"), "block-size": (meta + 64 * KIB, "<I"), "has-parent": (meta + 64 * KIB + 4, "<I"),
        "disk-size": (meta + 64 * KIB + 8, "<Q")})
    out.sweep("vhdx-bat", "vhdx", base, {"entry": (vhdxkit.BAT_AT, "<Q")})
    out.cuts("vhdx", "vhdx", base, [8, 64 * KIB, 200 * KIB, 2 * MIB, 3 * MIB, len(base) - 4096])
    for name, path in OUTSIDE.items():
        parent = vhdxkit.Vhdx("parent", MIB)
        child = vhdxkit.Vhdx("child", MIB, parent=parent, relative=path[:200].decode("latin-1")).put(0, DISK)
        out.add(f"vhdx-parent-{name}", "vhdx", bytes(child.build()), "must_reject_by_policy", f"parent {path[:40]!r}",
                kind="external-backing")
    log = vhdxkit.Log("case", file_size=len(base)).entry((vhdxkit.DATA_AT, bytes(4096)))
    changed = bytes(4096) + DISK[4096:]
    out.add("vhdx-log", "vhdx", bytes(log.into(vhdx_image()).build()), "must_open_same_content", "a log to replay",
            kind="vhdx-log", same=changed)
    out.add("vhdx-log-flag", "vhdx", bytes(log.into(vhdx_image()).build()), "must_flag", "a log to replay", kind="vhdx-log",
            flags=["log-dirty"])
    spoiled = vhdxkit.Log("case", file_size=len(base)).entry((vhdxkit.DATA_AT, bytes(4096)), spoil=True)
    out.add("vhdx-log-spoiled", "vhdx", bytes(spoiled.into(vhdx_image()).build()), "must_reject_open",
            "the only log entry has a wrong checksum", kind="vhdx-log")
    beyond = vhdxkit.Log("case", file_size=len(base)).entry((1 << 50, bytes(4096)))
    out.add("vhdx-log-beyond", "vhdx", bytes(beyond.into(vhdx_image()).build()), "must_not_hang_or_balloon",
            "a log that writes at 1 PiB", kind="vhdx-log")
    wide = vhdxkit.Log("case", file_size=len(base)).entry((vhdxkit.DATA_AT, 1 << 44))
    out.add("vhdx-log-wide", "vhdx", bytes(wide.into(vhdx_image()).build()), "must_not_hang_or_balloon",
            "a log that zeroes 16 TiB", kind="vhdx-log")


def make_vdi(out: Set) -> None:
    base = bytes(vdikit.image(DISK, "case", block=64 * KIB, align=4096))
    out.add("vdi-plain", "vdi", base, "must_open_same_content", "nothing", kind="plain", same=DISK, forced=False)
    out.sweep("vdi", "vdi", base, {
        "version": (68, "<I"), "header-size": (72, "<I"), "type": (76, "<I"), "flags": (80, "<I"), "bmap-offset": (340, "<I"),
        "data-offset": (344, "<I"), "sector-size": (360, "<I"), "disk-size": (368, "<Q"), "block-size": (376, "<I"),
        "block-extra": (380, "<I"), "blocks": (384, "<I"), "allocated": (388, "<I"), "bmap-entry": (4096, "<I"),
        "bmap-second": (4100, "<I")})
    out.cuts("vdi", "vdi", base, [64, 68, 200, 399, 4100, len(base) - 64 * KIB])
    child = vdikit.image(DISK, "case", kind=vdikit.DIFFERENCING, block=64 * KIB, align=4096, parent="parent")
    out.add("vdi-parent", "vdi", bytes(child), "must_reject_by_policy", "a differencing image", kind="external-backing")
    note = bytearray(base)
    note[84:104] = b"\x1b[2J\x1b]0;owned\x07\r\n".ljust(20, b"\0")
    out.add("vdi-comment", "vdi", note, "must_open_same_content", "control characters in the comment", kind="terminal-injection",
            same=DISK)


def make_mixtures(out: Set) -> None:
    image = qcow2()
    out.add("poly-qcow2-vhd", "qcow2", bytes(image) + vhdkit.footer(len(DISK), vhdkit.FIXED, b"u" * 16), "must_flag",
            "a QCOW2 image with a VHD footer", kind="polyglot", flags=["polyglot"], forced=False)
    sector = bytearray(image)
    sector[510:512] = b"\x55\xaa"
    struct.pack_into("<B3sB3sII", sector, 446, 0x80, b"\0\2\0", 0x83, b"\0\0\0", 1, 100)
    out.add("poly-qcow2-mbr", "qcow2", sector, "must_not_hang_or_balloon", "a QCOW2 image with a boot signature", kind="polyglot",
            forced=False)
    for name, data, format in (("qcow2", qcow2(backing=b"/etc/passwd"), "qcow2"), ("vhd", vhdkit.fixed(DISK, "x"), "vpc"),
                               ("vmdk", vmdkkit.sparse(DISK), "vmdk"), ("vdi", vdikit.image(DISK, "x"), "vdi")):
        out.add(f"guest-written-{name}", "raw", bytes(data), "must_open_same_content", f"a raw disk whose guest wrote a {format}",
                kind="guest-written-header", same=bytes(data))
    for length in (0, 1, 3, 511, 513):
        out.add(f"raw-{length}", "raw", b"\xa5" * length, "must_open_same_content", f"{length} bytes", kind="raw",
                same=b"\xa5" * length)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    out = Set(folder)
    for make in (make_qcow2, make_vmdk, make_vhd, make_vhdx, make_vdi, make_mixtures, *hostile_more.MAKERS, *hostile_relatives.MAKERS):
        make(out)
    # last and at once, so that it tells that the set is whole
    part = folder / "manifest.part"
    part.write_text("\n".join(out.lines) + "\n", encoding="utf-8")
    os.replace(part, folder / "manifest.jsonl")
    print(f"{len(out.lines)} cases")


if __name__ == "__main__":
    main()
