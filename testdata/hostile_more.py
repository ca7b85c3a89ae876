"""More hostile images: files beside them, chains, strings that terminals obey, bombs, and what overlaps."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import struct
import zlib

import vdikit
import vhdkit
import vhdxkit
import vmdkkit
from hostilekit import CLUSTER, DISK, KIB, MIB, Set, extension, qcow2

# A file outside that must never be read; tests put it there.
CANARY = "/var/tmp/diskimage-canary/secret.raw"

# What a terminal would obey, or hide: a title, a cleared screen, C1 controls, a reversal, line separators.
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2066\u2028\u061c\r\n\x7f\U000e0041"


def make_companions(out: Set) -> None:
    beside = {
        "link": {"base": f"link {CANARY}"}, "link-inside": {"base": "link real", "real": DISK}, "fifo": {"base": "fifo"},
        "folder": {"base": "folder"}, "device": {"base": "link /dev/zero"}, "dangling": {"base": "link nothing"},
        "proc": {"base": "link /proc/self/environ"},
    }
    flat = vmdkkit.descriptor("monolithicFlat", [f'RW {MIB // 512} FLAT "base" 0'], 1).encode()
    part = vmdkkit.descriptor("twoGbMaxExtentSparse", [f'RW {MIB // 512} SPARSE "base"'], 1).encode()
    hint = vmdkkit.descriptor("monolithicSparse", [f'RW {MIB // 512} SPARSE "image"'], 1, parent_cid=2, parent="base")
    data_file = qcow2(incompatible=4, extensions=extension(0x44415441, b"base"))
    images = {"q2-backing": ("qcow2", bytes(qcow2(backing=b"base", extensions=extension(0xE2792ACA, b"raw")))),
              "q2-data-file": ("qcow2", bytes(data_file)), "vmdk-flat": ("vmdk", flat), "vmdk-sparse": ("vmdk", part),
              "vmdk-parent": ("vmdk", bytes(vmdkkit.sparse(DISK, hint)))}
    for prefix, (format, image) in images.items():
        for name, files in beside.items():
            out.add_folder(f"beside-{prefix}-{name}", format, {"image": image, **files}, f"the file that it names is a {name}",
                           kind="external-kinds")
    over = bytes(qcow2(backing=b"base", extensions=extension(0xE2792ACA, b"qcow2")))
    out.add_folder("q2-backing-self", "qcow2", {"base": over}, "it is its own backing file", kind="external-chain")
    out.add_folder("q2-backing-hardlink", "qcow2", {"image": over, "base": "same image"},
                   "its backing file is another name of itself", kind="external-chain")
    other = bytes(qcow2(backing=b"image", extensions=extension(0xE2792ACA, b"qcow2")))
    out.add_folder("q2-cycle", "qcow2", {"image": over, "base": other}, "two files over each other", kind="external-chain")
    chain = {str(number): bytes(qcow2(backing=str(number + 1).encode(), extensions=extension(0xE2792ACA, b"qcow2")))
             for number in range(80)}
    out.add_folder("q2-chain-80", "qcow2", {**chain, "80": bytes(qcow2())}, "a chain of 81 images", kind="external-chain")
    for name, line in {"flat": 'FLAT "image" 0', "sparse": 'SPARSE "image"'}.items():
        text = vmdkkit.descriptor("custom", [f"RW {MIB // 512} {line}"], 1).encode()
        out.add_folder(f"vmdk-self-{name}", "vmdk", {"image": text}, "its extent is the descriptor itself",
                       kind="external-chain", expected="must_not_hang_or_balloon" if name == "flat" else "must_reject_by_policy")
    for pad in (512, 4096):
        line = f'RW {MIB // 512} FLAT "{CANARY}" 0'
        text = vmdkkit.descriptor("monolithicFlat", [line], 1).encode().ljust(pad, b"\0")
        out.add(f"vmdk-padded-{pad}", "vmdk", text, "must_reject_by_policy", f"a descriptor padded by NULs to {pad} bytes",
                kind="external-extent", forced=False)
    text = vmdkkit.descriptor("monolithicSparse", [f'RW {MIB // 512} FLAT "{CANARY}" 0'], 1, extra='createType="monolithicFlat"')
    text = text.replace("createType", "CREATETYPE", 1)
    out.add("vmdk-two-types", "vmdk", text.encode(), "must_reject_by_policy", "two types, in two spellings",
            kind="external-extent", alt=["must_reject_open"])


def snapshots(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Snapshot table entries of the version 3 format, all of the active L1 table."""
    table = []
    for identifier, name in entries:
        entry = struct.pack(">QIHHIIQIIQQ", 3 * CLUSTER, 1, len(identifier), len(name), 0, 0, 0, 0, 16, 0, len(DISK))
        entry += identifier + name
        table.append(entry.ljust(-(-len(entry) // 8) * 8, b"\0"))
    return b"".join(table)


def with_snapshots(entries: list[tuple[bytes, bytes]]) -> bytes:
    data = qcow2()
    struct.pack_into(">IQ", data, 60, len(entries), len(data))
    return bytes(data) + snapshots(entries)


def make_strings(out: Set) -> None:
    text = ESCAPES.encode()

    def add(name: str, format: str, data: bytes, forced: bool = True) -> None:
        out.add(f"escape-{name}", format, bytes(data), "must_not_hang_or_balloon", f"controls in the {name}",
                kind="terminal-injection", forced=forced)
    add("q2-backing", "qcow2", qcow2(backing=text))
    add("q2-backing-format", "qcow2", qcow2(backing=b"base", extensions=extension(0xE2792ACA, text)))
    add("q2-data-file", "qcow2", qcow2(incompatible=4, extensions=extension(0x44415441, text)))
    feature = struct.pack(">BB46s", 0, 7, text)
    add("q2-feature", "qcow2", qcow2(incompatible=1 << 7, extensions=extension(0x6803F857, feature)))
    add("q2-snapshot", "qcow2", with_snapshots([(text, text), (b"1", text + b"\xff\xfe\x80")]))
    bitmap = struct.pack(">QIIBBHI", 0, 0, 1, 1, 16, len(text), 0) + text
    data = qcow2(extensions=extension(0x23852875, struct.pack(">IIQQ", 1, 0, -(-len(bitmap) // 8) * 8, 9 * CLUSTER)))
    struct.pack_into(">Q", data, 88, 1)
    add("q2-bitmap", "qcow2", data.ljust(9 * CLUSTER, b"\0") + bitmap.ljust(CLUSTER, b"\0"))
    plain = text.replace(b"\r\n", b"")
    quoted = vmdkkit.descriptor("TYPE", [f'RW {MIB // 512} FLAT "NAME" 0'], 1, parent_cid=2, parent="PARENT", encoding="CODE",
                                ddb={"toolsVersion": "VALUE"}).encode()
    for word in (b"TYPE", b"NAME", b"PARENT", b"CODE", b"VALUE"):
        add(f"vmdk-{word.decode().lower()}", "vmdk", quoted.replace(b"TYPE", b"custom") .replace(word, plain))
        add(f"vmdk-found-{word.decode().lower()}", "vmdk", quoted.replace(word, plain), forced=False)
    odd = vmdkkit.descriptor("custom", ["LINE"], 1).encode().replace(b"LINE", b"RW " + plain + b' ZERO "' + plain + b'"')
    add("vmdk-line", "vmdk", odd)
    add("vhd-creator", "vpc", vhdkit.sparse(DISK, "case", block=64 * KIB, creator=b"\x1b[2J", system=b"\x9b31m"))
    parent = (b"p" * 16, ESCAPES, ESCAPES)
    add("vhd-parent", "vpc", vhdkit.sparse(DISK, "child", block=64 * KIB, own=lambda n: n < 8, parent=parent))
    image = vhdxkit.Vhdx("case", MIB).put(0, DISK).build()
    creator = ESCAPES.encode("utf-16-le")
    image[8:8 + len(creator)] = creator
    add("vhdx-creator", "vhdx", image)
    child = vhdxkit.Vhdx("child", MIB, parent=vhdxkit.Vhdx("parent", MIB), relative=ESCAPES).put(0, DISK)
    add("vhdx-parent", "vhdx", child.build())
    add("vdi-text", "vdi", vdikit.image(DISK, "case", block=64 * KIB, align=4096, text=ESCAPES[:30], note=ESCAPES))
    for format in ("qcow2", "vmdk", "vhdx", "vdi", "vpc", "raw"):
        add(f"as-{format}", format, text * 100)


def zstd_bomb(blocks: int) -> bytes:
    """A frame with a window of 128 MiB and so many blocks of one byte, 128 KiB each (RFC 8878, 3.1.1)."""
    block = struct.pack("<I", (128 * KIB) << 3 | 1 << 1)[:3] + b"A"
    last = struct.pack("<I", (128 * KIB) << 3 | 1 << 1 | 1)[:3] + b"A"
    return b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + block * (blocks - 1) + last


def make_bombs(out: Set) -> None:
    def add(name: str, format: str, data: bytes, attack: str, length: int = 0) -> None:
        out.add(f"bomb-{name}", format, bytes(data), "must_not_hang_or_balloon", attack, kind="bomb", length=length)
    for blocks in (1, 15_000):
        data = qcow2(incompatible=8, compressed=zstd_bomb(blocks))
        struct.pack_into(">IB", data, 100, 112, 1)
        add(f"q2-zstd-{blocks}", "qcow2", data, f"a cluster that inflates to {blocks} times 128 KiB")
    add("q2-snapshots", "qcow2", with_snapshots([(b"", b"")] * 65_536), "65,536 snapshots")
    add("q2-snapshot-names", "qcow2", with_snapshots([(b"i" * 200, b"n" * 20_000)] * 800), "16 MiB of snapshot names")
    data = qcow2()
    struct.pack_into(">IQ", data, 36, 4 << 20, 64 * MIB)
    struct.pack_into(">Q", data, 24, (4 << 20) * (CLUSTER // 8) * CLUSTER)
    add("q2-l1", "qcow2", data, "an L1 table of 32 MiB, all holes", length=128 * MIB)
    data = qcow2()
    struct.pack_into(">QI", data, 48, 64 * MIB, 128)
    add("q2-refcount-table", "qcow2", data, "a refcount table of 8 MiB, all holes", length=128 * MIB)
    data = qcow2()
    struct.pack_into(f">{CLUSTER // 8}Q", data, CLUSTER, *[2 * CLUSTER] * (CLUSTER // 8))
    add("q2-refcount-shared", "qcow2", data, "8192 entries of the refcount table share one block")
    data = qcow2()
    struct.pack_into(f">{CLUSTER // 2}H", data, 2 * CLUSTER, *[0xFFFF] * (CLUSTER // 2))
    add("q2-refcounts-max", "qcow2", data, "every refcount is 65,535")
    data = bytearray(vhdxkit.Vhdx("case", MIB).put(0, DISK).build())
    log = vhdxkit.guid_of("case/log")
    for at, sequence in zip(vhdxkit.HEADERS, (6, 7)):
        head = bytearray(vhdxkit.header(sequence, "case", log=log, log_size=(1 << 30)))
        struct.pack_into("<Q", head, 72, 64 * MIB)
        data[at:at + 4096] = vhdxkit.sealed(head)
    add("vhdx-log", "vhdx", data, "a log of 1 GiB, all holes", length=2048 * MIB)
    wide = vhdxkit.Vhdx("case", MIB)
    wide.items[1] = (vhdxkit.DISK_SIZE, 6, struct.pack("<Q", 60 << 40))
    wide.regions = [(vhdxkit.BAT, 64 * MIB, 512 * MIB, 1), (vhdxkit.METADATA, vhdxkit.META_AT, MIB, 1)]
    add("vhdx-bat", "vhdx", wide.build(), "a BAT of 512 MiB, all holes", length=1024 * MIB)
    data = bytearray(vhdkit.sparse(DISK, "case", block=64 * KIB))
    struct.pack_into(">QII", data, 528, 1 << 20, 0, 200 << 20)
    struct.pack_into(">I", data, 536, 0x10000)
    struct.pack_into(">I", data, 540, 200 << 20)
    struct.pack_into(">I", data, 512 + 36, 0)
    struct.pack_into(">I", data, 512 + 36, vhdkit.checksum(data[512:1536], 36))
    add("vhd-bat", "vpc", data, "a BAT of 800 MiB, all holes", length=1024 * MIB)
    data = bytearray(vdikit.image(DISK, "case", block=64 * KIB, align=4096))
    struct.pack_into("<QIII", data, 368, (200 << 20) * 64 * KIB, 64 * KIB, 0, 200 << 20)
    struct.pack_into("<I", data, 344, 900 * MIB)
    add("vdi-map", "vdi", data, "a block map of 800 MiB, all zeros", length=1024 * MIB)
    data = bytearray(vmdkkit.sparse(DISK))
    struct.pack_into("<Q", data, 12, 1 << 41)
    struct.pack_into("<Q", data, 56, 64 * MIB // 512)
    struct.pack_into("<Q", data, 48, 64 * MIB // 512)
    struct.pack_into("<Q", data, 64, 1024 * MIB // 512)
    add("vmdk-gd", "vmdk", data, "a grain directory of 128 MiB, all holes", length=1024 * MIB)
    stream = bytearray(vmdkkit.stream(DISK, vmdkkit.descriptor("streamOptimized", [f'RDONLY {MIB // 512} SPARSE "x"'], 1)))
    bomb = zlib.compress(bytes(16 * MIB), 9)
    struct.pack_into("<I", stream, 128 * 512 + 8, len(bomb))
    stream[128 * 512 + 12:128 * 512 + 12 + len(bomb)] = bomb
    add("vmdk-grain", "vmdk", stream, "a grain that inflates to 16 MiB")
    lines = [f'RW 1 FLAT "{number}" 0' for number in range(30_000)]
    add("vmdk-extents", "vmdk", vmdkkit.descriptor("custom", lines, 1).encode(), "30,000 extents in files")
    add("vmdk-zeros", "vmdk", vmdkkit.descriptor("custom", ["RW 1 ZERO"] * 90_000, 1).encode(), "90,000 extents of zeros")


def make_overlaps(out: Set) -> None:
    def add(name: str, format: str, data: bytes, attack: str) -> None:
        out.add(f"overlap-{name}", format, bytes(data), "must_not_hang_or_balloon", attack, kind=f"{format}-overlap")
    data = bytearray(vhdkit.sparse(DISK, "case", block=64 * KIB))
    first = struct.unpack_from(">I", data, 1536)[0]
    struct.pack_into(">16I", data, 1536, *[first] * 16)
    add("vhd", "vpc", data, "all blocks in one place")
    struct.pack_into(">16I", data, 1536, *[0] * 16)
    add("vhd-header", "vpc", data, "all blocks in the footer's copy")
    data = bytearray(vdikit.image(DISK, "case", block=64 * KIB, align=4096))
    struct.pack_into("<16I", data, 4096, *[0] * 16)
    add("vdi", "vdi", data, "all blocks in one place")
    image = vhdxkit.Vhdx("case", 8 * MIB).put(0, DISK)
    image.bat[1:8] = [image.bat[0]] * 7
    add("vhdx", "vhdx", image.build(), "all blocks in one place")
    image.bat[:8] = [vhdxkit.BAT_AT | 6] * 8
    add("vhdx-bat", "vhdx", image.build(), "all blocks in the BAT")
    for name, value in {"header": 1, "itself": 21, "same": 128}.items():
        data = bytearray(vmdkkit.sparse(DISK))
        gd = struct.unpack_from("<Q", data, 56)[0]
        table = struct.unpack_from("<I", data, gd * 512)[0]
        struct.pack_into("<16I", data, table * 512, *[value] * 16)
        add(f"vmdk-{name}", "vmdk", data, f"all grains at sector {value}")
    data = bytearray(vmdkkit.sparse(DISK))
    gd = struct.unpack_from("<Q", data, 56)[0]
    struct.pack_into("<I", data, gd * 512, gd)
    add("vmdk-table", "vmdk", data, "the grain table is the grain directory")
    for name, entry in {"l1-itself": (3 * CLUSTER, 3), "l2-itself": (4 * CLUSTER, 4), "l2-header": (4 * CLUSTER, 0)}.items():
        data = qcow2()
        struct.pack_into(">Q", data, entry[0], 1 << 63 | entry[1] * CLUSTER)
        add(f"q2-{name}", "qcow2", data, name)


def make_mangled(out: Set) -> None:
    images = {"qcow2": qcow2(), "vmdk": vmdkkit.sparse(DISK), "vhdx": vhdxkit.Vhdx("case", MIB).put(0, DISK).build(),
              "vdi": vdikit.image(DISK, "case", block=64 * KIB, align=4096), "vpc": vhdkit.sparse(DISK, "case", block=64 * KIB)}
    changes = {"crlf": (b"\n", b"\r\n"), "lf": (b"\r\n", b"\n"), "cr": (b"\r", b"\n"), "utf8": (b"\xfb", b"\xef\xbf\xbd")}
    marks = {"iso": (0x8000, b"\1CD001\1"), "tar": (257, b"ustar\x0000"), "mbr": (510, b"\x55\xaa"), "gpt": (512, b"EFI PART"),
             "vdi": (64, b"\x7f\x10\xda\xbe"), "zip-end": (-22, b"PK\5\6" + bytes(18)), "koly": (-512, b"koly"),
             "vhd-end": (-512, vhdkit.footer(MIB, vhdkit.FIXED, b"u" * 16))}
    for format, image in images.items():
        for name, (old, new) in changes.items():
            out.add(f"mangled-{format}-{name}", format, bytes(image).replace(old, new), "must_not_hang_or_balloon",
                    f"{old!r} has become {new!r}", kind="newline-mangled", forced=False)
        for name, (at, mark) in marks.items():
            data = bytearray(image)
            at = at if at >= 0 else len(data) + at
            data[at:at + len(mark)] = mark
            out.add(f"marked-{format}-{name}", format, bytes(data), "must_not_hang_or_balloon", f"the mark of {name} at {at:#x}",
                    kind="polyglot", forced=False)


def tar_header(name: bytes, size: int, kind: bytes = b"0", *, fields: dict[int, bytes] | None = None, summed: bool = True) -> bytes:
    block = bytearray(512)
    block[:len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:148] = b"%011o\x0000000000000\0" % size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for at, value in (fields or {}).items():
        block[at:at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) + (not summed))
    return bytes(block)


def tar(*members: tuple[bytes, bytes], end: bytes = bytes(1024)) -> bytes:
    return b"".join(header + content.ljust(-(-len(content) // 512) * 512, b"\0") for header, content in members) + end


def sparse_fields(size: int, *runs: tuple[int, int]) -> dict[int, bytes]:
    entries = b"".join(b"%011o\0%011o\0" % run for run in runs)
    return {257: b"ustar  \0", 386: entries, 483: b"%011o\0" % size}


def ovf(disks: str, *, files: str = '<File ovf:href="d" ovf:id="f"/>', head: str = "") -> bytes:
    return (f'{head}<Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>{files}</References>'
            f"<DiskSection>{disks}</DiskSection></Envelope>").encode()


def make_containers(out: Set) -> None:
    image = bytes(qcow2())
    plain = tar_header(b"d", len(image))
    one = '<Disk ovf:diskId="i" ovf:fileRef="f" ovf:capacity="1048576"/>'

    def add(name: str, data: bytes, expected: str, attack: str, *, format: str = "tar", **more) -> None:
        out.add(f"wrap-{name}", format, data, expected, attack, kind="container", forced=False, **more)

    add("tar-plain", tar((plain, image)), "must_open_same_content", "nothing", same=DISK)
    base256 = {"huge": b"\x80" + b"\xff" * 11, "negative": b"\xff" * 12, "wraps": b"\x80\0\0\0" + b"\xff" * 8,
               "top": b"\x81" + bytes(11)}
    for name, size in {**base256, "beyond": b"77777777777\0", "digits": b"99999999999\0", "minus": b"-0000000001\0",
                       "blank": b" " * 12}.items():
        add(f"tar-size-{name}", tar((tar_header(b"d", 0, fields={124: size}), image)), "must_reject_open", f"a size of {size!r}")
    add("tar-checksum", tar((tar_header(b"e", 3), b"abc"), (tar_header(b"d", len(image), summed=False), image)),
        "must_reject_open", "the checksum of the second header is wrong")
    add("tar-twice", tar((plain, image), (plain, image)), "must_reject_open", "two members of one name")
    for name, path in {"up": b"../../etc/cron.d/x", "absolute": b"/etc/passwd", "escape": b"\x1b]0;x\x07\x1b[2J",
                       "long": b"x" * 100, "newline": b"a\nb"}.items():
        add(f"tar-name-{name}", tar((tar_header(path, len(image)), image)), "must_open_same_content", f"a member {path[:20]!r}",
            same=DISK)
    add("tar-symlink", tar((tar_header(b"d", 0, b"2", fields={157: b"/etc/passwd"}), b"")), "must_reject_open", "a link to a file outside")
    add("tar-hardlink", tar((tar_header(b"d", 0, b"1", fields={157: b"/etc/passwd"}), b"")), "must_reject_open", "a hard link outside")
    add("tar-link-content", tar((tar_header(b"l", len(image), b"2"), image), (plain, image)), "must_reject_open",
        "a link with a content, which one reader passes over and another takes for members")
    add("tar-members", tar_header(b"e", 0) * 5000 + tar((plain, image)), "must_open_same_content", "five thousand members before it",
        same=DISK)
    add("tar-global", tar((tar_header(b"g", 12, b"g"), b"12 size=100\n"), (plain, image)), "must_reject_open",
        "a global header gives all members one size")
    record = b"99999 path=x\n"
    add("tar-record", tar((tar_header(b"x", len(record), b"x"), record), (plain, image)), "must_reject_open",
        "a record that is longer than its header")
    add("tar-dangling", tar((plain, image), (tar_header(b"x", 9, b"x"), b"9 path=x\n")), "must_reject_open",
        "an extended header with no member behind it")
    add("tar-long-name", tar((tar_header(b"L", 1 << 30, b"L"), b"x"), (plain, image)), "must_reject_open", "a name of 1 GiB")
    for name, (size, stored, runs) in {
            "overlap": (4096, 2048, [(0, 1024), (512, 1024)]), "back": (4096, 2048, [(2048, 1024), (0, 1024)]),
            "beyond": (4096, 1024, [(3584, 1024)]), "sum": (4096, 1024, [(0, 512)]), "huge": (1 << 32, 1024, [(1 << 32, 1024)]),
            "wraps": (4096, 1024, [(0o77777777777, 0o77777777777)])}.items():
        header = tar_header(b"d", stored, b"S", fields=sparse_fields(size, *runs))
        add(f"tar-sparse-{name}", tar((header, bytes(stored))), "must_reject_open", f"a sparse map {runs} of {stored} in {size}")
    endless = tar_header(b"d", 0, b"S", fields={**sparse_fields(512), 482: b"\1"})
    add("tar-sparse-endless", endless + (bytes(504) + b"\1" + bytes(7)) * 1000, "must_reject_open", "a map that goes on to the end of the file")
    numbers = b"99999999999999999999\n"
    pax = b"".join(b"%d %s\n" % (len(text) + 4, text) for text in
                   (b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.realsize=1048576", b"GNU.sparse.name=d"))
    for name, numbers in {"count": b"99999999999999999999\n", "many": b"9999999999\n", "none": b"", "text": b"x\n", "long": b"1" * 512}.items():
        content = numbers.ljust(512, b"\0")
        add(f"tar-pax-sparse-{name}", tar((tar_header(b"x", len(pax), b"x"), pax), (tar_header(b"d", len(content)), content)),
            "must_reject_open", f"a sparse map that starts with {numbers[:24]!r}")
    add("tar-cut", tar((plain, image))[:4096], "must_reject_open", "the archive ends within a member")
    add("tar-lone-zeros", tar((tar_header(b"e", 3), b"abc"), end=bytes(512)) + tar((plain, image)), "must_not_hang_or_balloon",
        "a lone block of zeros, behind which other readers go on")
    add("tar-iso", bytes(tar((plain, image.ljust(70_000, b"\0"))))[:0x8001] + b"CD001" + bytes(tar((plain, image.ljust(70_000, b"\0"))))[0x8006:],
        "must_not_hang_or_balloon", "an archive that is an ISO 9660 file system too")

    def ova(text: bytes, *more: tuple[bytes, bytes]) -> bytes:
        return tar((tar_header(b"v.ovf", len(text)), text), *more, (plain, image))

    add("ova-plain", ova(ovf(one)), "must_open_same_content", "nothing", format="ova", same=DISK)
    laughs = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\">" + "".join(
        f"<!ENTITY {b} \"{f'&{a};' * 10}\">" for a, b in zip("abcdefgh", "bcdefghi")) + "]>"
    for name, text in {"laughs": ovf(one + "&i;", head=laughs), "xxe": ovf("&e;", head='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
                       "deep": b"<Envelope>" + b"<a>" * 100_000, "many": ovf("<Disk/>" * 100_000), "empty": b"", "zeros": bytes(2000),
                       "huge": ovf(one).ljust(2 << 20), "utf16": ovf(one).decode().encode("utf-16")}.items():
        add(f"ova-{name}", ova(text), "must_not_hang_or_balloon", f"a description that is {name}", format="ova")
    for name, files in {"up": "../d", "absolute": "/etc/passwd", "url": "http://127.0.0.1/d", "gone": "gone"}.items():
        files = f'<File ovf:href="{files}" ovf:id="f"/>'
        add(f"ova-file-{name}", ova(ovf(one, files=files)), "must_reject_open", f"a disk in {files}", format="ova")
    add("ova-parent", ova(ovf(one.replace("ovf:capacity", 'ovf:parentRef="i" ovf:capacity'))), "must_not_hang_or_balloon", "a disk upon itself",
        format="ova")
    capacity = one.replace("1048576", "18446744073709551615").replace("/>", ' ovf:capacityAllocationUnits="byte * 2^4000000000"/>')
    add("ova-capacity", ova(ovf(capacity)), "must_not_hang_or_balloon", "a capacity that no number holds", format="ova")
    for name, text in {"gone": b"SHA1(gone)= " + b"0" * 40 + b"\n", "odd": b"SHA1(d)= xyz\n", "many": (b"SHA256(d)= " + b"0" * 64 + b"\n") * 50,
                       "binary": bytes(range(256)) * 20}.items():
        add(f"ova-manifest-{name}", ova(ovf(one), (tar_header(b"v.mf", len(text)), text)), "must_not_hang_or_balloon", f"a manifest that is {name}",
            format="ova")

    zeros = bytes(24 * MIB)
    packers = {"gzip": lambda data: gzip.compress(data, 9, mtime=0), "bzip2": bz2.compress,
               "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32, preset=1)}
    for name, pack in packers.items():
        small = pack(image)
        add(f"{name}-plain", small, "must_not_hang_or_balloon", "nothing", format=name)
        add(f"{name}-bomb", pack(zeros), "must_not_hang_or_balloon", "24 MiB of zeros in some KiB", format=name)
        add(f"{name}-nested", pack(pack(pack(pack(pack(zeros))))), "must_reject_open", "five of them in one another", format=name)
        add(f"{name}-cut", small[:len(small) // 2], "must_reject_open", "the stream is cut off", format=name)
        add(f"{name}-sum", small[:-5] + bytes([small[-5] ^ 1]) + small[-4:], "must_reject_open", "its last bytes are wrong", format=name)
        add(f"{name}-garbage", small + b"garbage", "must_reject_open", "garbage follows", format=name)
    add("gzip-empties", gzip.compress(b"", mtime=0) * 50_000, "must_not_hang_or_balloon", "fifty thousand members of no bytes", format="gzip")
    add("gzip-name", b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 200_000, "must_reject_open", "a name that does not end", format="gzip")
    dictionary = bytearray(lzma.compress(image, check=lzma.CHECK_CRC32, preset=0))
    at = dictionary.index(b"\x21\x01", 12) + 2
    dictionary[at] = 40
    end = 12 + 4 * (dictionary[12] + 1) - 4
    dictionary[end:end + 4] = struct.pack("<I", zlib.crc32(dictionary[12:end]))
    add("xz-dictionary", bytes(dictionary), "must_not_hang_or_balloon", "a dictionary of 4 GiB", format="xz")
    add("zstd-window", b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\0\0" + bytes(20), "must_reject_open", "a window of 2^41 bytes", format="zstd")
    add("zstd-size", b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\0\0", "must_reject_open", "a frame of 2^64 bytes", format="zstd")

    vma = bytearray(12_800)
    vma[:8] = b"VMA\0\0\0\0\1"
    struct.pack_into(">III", vma, 48, 12_288, 100, 12_800)
    struct.pack_into(">IIQ", vma, 4096, 1, 0, MIB)
    vma[12_289:12_295] = b"\4\0abc\0"
    vma[32:48] = hashlib.md5(vma).digest()
    add("vma-plain", bytes(vma), "must_reject_open", "nothing, but its disks are not read", format="vma")
    for name, (at, value) in {"header": (56, 1 << 31), "blob": (52, 1 << 31), "blob-at": (48, 0), "name": (4096, 1 << 31), "short": (56, 60)}.items():
        bad = bytearray(vma)
        struct.pack_into(">I", bad, at, value)
        bad[32:48] = bytes(16)
        bad[32:48] = hashlib.md5(bad).digest()
        add(f"vma-{name}", bytes(bad), "must_reject_open", f"{value:#x} at {at}", format="vma")


MAKERS = (make_companions, make_strings, make_bombs, make_overlaps, make_mangled, make_containers)
