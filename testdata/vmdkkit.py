"""Writing VMDK files by hand, after VMware's Virtual Disk Format 5.0; seSparse after what readers of it expect."""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, Collection

if TYPE_CHECKING:
    from imagekit import Image

SECTOR = 512
GD_AT_END = (1 << 64) - 1
NO_PARENT = 0xFFFFFFFF
DESCRIPTOR_SECTORS = 20


def cid_of(name: str) -> int:
    """A content id that depends on the file's name only."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF | 0x10000000


def descriptor(create_type: str, extents: list[str], cid: int, *, parent_cid: int = NO_PARENT, parent: str = "",
               extra: str = "", encoding: str = "", ddb: dict[str, str] | None = None, version: int = 1) -> str:
    lines = ["# Disk DescriptorFile", f"version={version}"]
    lines += [f'encoding="{encoding}"'] if encoding else []
    lines += [f"CID={cid:08x}", f"parentCID={parent_cid:08x}"]
    lines += [f'createType="{create_type}"']
    lines += [f'parentFileNameHint="{parent}"'] if parent else []
    lines += [extra] if extra else []
    lines += ["", "# Extent description", *extents, "", "# The Disk Data Base", "#DDB", ""]
    values = {"virtualHWVersion": "8", "geometry.cylinders": "4", "geometry.heads": "16", "geometry.sectors": "63",
              "adapterType": "lsilogic", **(ddb or {})}
    return "\n".join([*lines, *(f'ddb.{key} = "{value}"' for key, value in values.items())]) + "\n"


def fix_vmdk(image: "Image", cid: int | None = None) -> None:
    """Replace the random content id in a descriptor, alone or embedded, without moving what follows."""
    data = image.io().path.read_bytes()
    start = data.index(b"# Disk DescriptorFile")
    end = start + DESCRIPTOR_SECTORS * SECTOR if start else len(data)
    region = data[start:end]
    fixed = re.sub(rb"\nCID=[0-9a-f]+", b"\nCID=%08x" % (cid_of(image.file) if cid is None else cid), region, count=1)
    fixed = fixed.rstrip(b"\0").ljust(len(region) if start else up(len(fixed.rstrip(b"\0")), SECTOR), b"\0")
    image.path.write_bytes(data[:start] + fixed + data[end:])
    image.commands.append("[patched: CID]")


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def sectors_of(data: bytes) -> int:
    return -(-len(data) // SECTOR)


def header(capacity: int, *, grain: int, gtes: int, flags: int, version: int = 1, descriptor: tuple[int, int] = (0, 0),
           rgd: int = 0, gd: int = 0, overhead: int = 0, compress: int = 0) -> bytes:
    return struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", version, flags, capacity, grain, *descriptor, gtes, rgd, gd,
                       overhead, 0, b"\n \r\n", compress).ljust(SECTOR, b"\0")


def grains_of(data: bytes, grain: int) -> list[bytes]:
    return [data[at:at + grain * SECTOR] for at in range(0, len(data), grain * SECTOR)]


def sparse(data: bytes, text: str = "", *, grain: int = 128, gtes: int = 512, own: Collection[int] | None = None,
           zero: Collection[int] = (), capacity: int = 0, backwards: bool = False) -> bytearray:
    """A hosted sparse extent with both grain directories. `own` are the grains to store (default: all that are not
    zero), `zero` those to mark as zeroed."""
    grains = grains_of(data, grain)
    own = [n for n, g in enumerate(grains) if any(g)] if own is None else sorted(own)
    capacity = capacity or len(data) // SECTOR
    tables, table_sectors = -(-len(grains) // gtes), up(gtes * 4, SECTOR) // SECTOR
    gd_sectors = up(tables * 4, SECTOR) // SECTOR
    rgd = 1 + (DESCRIPTOR_SECTORS if text else 0)
    gd = rgd + gd_sectors + tables * table_sectors
    overhead = up(gd + gd_sectors + tables * table_sectors, grain)
    flags = 3 | (4 if zero else 0)
    out = bytearray(header(capacity, grain=grain, gtes=gtes, flags=flags, version=2 if zero else 1, rgd=rgd, gd=gd,
                           descriptor=(1, DESCRIPTOR_SECTORS) if text else (0, 0), overhead=overhead))
    out += text.encode().ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0") if text else b""
    entries = [0] * (tables * table_sectors * SECTOR // 4)
    for place, number in enumerate(reversed(own) if backwards else own):
        entries[number] = overhead + place * grain
    for number in zero:
        entries[number] = 1
    for first in (rgd, gd):
        pointers = [first + gd_sectors + n * table_sectors for n in range(tables)]
        out += struct.pack(f"<{tables}I", *pointers).ljust(gd_sectors * SECTOR, b"\0")
        out += struct.pack(f"<{len(entries)}I", *entries)
    out = out.ljust(overhead * SECTOR, b"\0")
    for number in reversed(own) if backwards else own:
        out += grains[number].ljust(grain * SECTOR, b"\0")
    return out


def marker(value: int, kind: int) -> bytes:
    return struct.pack("<QII", value, 0, kind).ljust(SECTOR, b"\0")


def stream(data: bytes, text: str, *, grain: int = 128, gtes: int = 512, version: int = 3, pad: bool = False) -> bytes:
    """A stream-optimized extent as VMware writes it: grain directory and footer at the end, all with markers."""
    grains, capacity = grains_of(data, grain), len(data) // SECTOR
    fields = {"grain": grain, "gtes": gtes, "version": version, "flags": 0x30001, "compress": 1, "overhead": 128,
              "descriptor": (1, DESCRIPTOR_SECTORS)}
    out = bytearray(header(capacity, gd=GD_AT_END, **fields))
    out += text.encode().ljust(DESCRIPTOR_SECTORS * SECTOR, b"\0")
    out = out.ljust(128 * SECTOR, b"\0")

    def put(piece: bytes) -> int:
        at = len(out) // SECTOR
        out.extend(piece.ljust(up(len(piece), SECTOR), b"\0"))
        return at

    directory = []
    for first in range(0, len(grains), gtes):
        table = [0] * gtes
        for index, one in enumerate(grains[first:first + gtes]):
            if any(one):
                packed = zlib.compress(one.ljust(grain * SECTOR, b"\0") if pad else one, 9)
                table[index] = put(struct.pack("<QI", (first + index) * grain, len(packed)) + packed)
        if any(table):
            put(marker(gtes * 4 // SECTOR, 1))
            directory.append(put(struct.pack(f"<{gtes}I", *table)))
        else:
            directory.append(0)
    put(marker(sectors_of(bytes(4 * len(directory))), 2))
    gd = put(struct.pack(f"<{len(directory)}I", *directory))
    put(marker(1, 3))
    put(header(capacity, gd=gd, **fields))
    put(marker(0, 0))
    return bytes(out)


def cowd(data: bytes, *, grain: int = 1, own: Collection[int] | None = None, name: str = "") -> bytes:
    """An ESX server sparse extent."""
    grains = grains_of(data, grain)
    own = [n for n, g in enumerate(grains) if any(g)] if own is None else sorted(own)
    count, gd_at = -(-len(grains) // 4096), 4
    gd_sectors = up(count * 4, SECTOR) // SECTOR
    used = sorted({number // 4096 for number in own})
    gd = [0] * count
    for place, table in enumerate(used):
        gd[table] = gd_at + gd_sectors + place * 32
    first = gd_at + gd_sectors + 32 * len(used)
    entries = [0] * (count * 4096)
    for place, number in enumerate(own):
        entries[number] = first + place * grain
    out = struct.pack("<4sIIIIIIIIII", b"COWD", 1, 3, len(data) // SECTOR, grain, gd_at, count,
                      first + len(own) * grain, 4, 16, 63).ljust(1060, b"\0")
    out += struct.pack("<I60s512sI8sI", 1, name.encode(), b"", 1, b"", 0)
    out = out.ljust(gd_at * SECTOR, b"\0") + struct.pack(f"<{count}I", *gd).ljust(gd_sectors * SECTOR, b"\0")
    for table in used:
        out += struct.pack("<4096I", *entries[table * 4096:][:4096])
    return out + b"".join(grains[number].ljust(grain * SECTOR, b"\0") for number in own)


def se_sparse(data: bytes, *, own: Collection[int] | None = None, zero: Collection[int] = (),
              unmapped: Collection[int] = (), replay: int = 0) -> bytes:
    """A space-efficient sparse extent: 4 KiB grains, tables of 4096 entries of 64 bits, all of them indexed."""
    grains = grains_of(data, 8)
    own = [n for n, g in enumerate(grains) if any(g)] if own is None else sorted(own)
    count = -(-len(grains) // 4096)
    used = sorted({number // 4096 for number in [*own, *zero, *unmapped]}, reverse=True)  # so that indexes matter
    gd_at, gt_at, gt_size = 64, 128, 64 * max(1, len(used))
    bitmap_at = gt_at + gt_size
    backmap_at = bitmap_at + 64
    grains_at = up(backmap_at + 64, 128)
    gd = [0] * count
    for index, table in enumerate(used):
        gd[table] = 0x10000000_00000000 | index
    entries = [0] * (count * 4096)
    for index, number in enumerate(reversed(own)):
        entries[number] = 0x3000000000000000 | (index & 0xFFF) << 48 | index >> 12
    for number in unmapped:
        entries[number] = 0x1000000000000000
    for number in zero:
        entries[number] = 0x2000000000000000
    fields = [0xCAFEBABE, 0x0000000200000001, len(data) // SECTOR, 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 2, 4, 60, gd_at, 1,
              gt_at, gt_size, bitmap_at, 64, backmap_at, 64, grains_at, len(own) * 8]
    out = bytearray((grains_at + 8 * len(own)) * SECTOR)
    struct.pack_into("<26Q", out, 0, *fields)
    struct.pack_into("<4Q", out, SECTOR, 0xCAFECAFE, len(used), 1, replay)
    struct.pack_into(f"<{count}Q", out, gd_at * SECTOR, *gd)
    for index, table in enumerate(used):
        struct.pack_into("<4096Q", out, (gt_at + 64 * index) * SECTOR, *entries[table * 4096:][:4096])
    for index, number in enumerate(reversed(own)):
        at = (grains_at + 8 * index) * SECTOR
        out[at:at + len(grains[number])] = grains[number]
        struct.pack_into("<Q", out, backmap_at * SECTOR + 8 * index, number)
    return bytes(out)
