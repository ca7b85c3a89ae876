"""Writing VHD files by hand, after Microsoft's Virtual Hard Disk Image Format Specification 1.0."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Callable, Collection

if TYPE_CHECKING:
    from imagekit import Image

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
STAMP = 0x2CE00000
NONE = (1 << 64) - 1


def uuid_of(name: str) -> bytes:
    """Sixteen bytes that tell the image's name."""
    return ("vhd:" + name).encode().ljust(16, b".")[:16]


def checksum(data: bytes | bytearray, at: int) -> int:
    """The one's complement of the sum of all bytes except the four at `at`."""
    return ~(sum(data) - sum(data[at:at + 4])) & 0xFFFFFFFF


def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads, sectors per track, by the algorithm in the specification's appendix."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        track, heads, tracks = 255, 16, sectors // 255
    else:
        track, tracks = 17, sectors // 17
        heads = max(4, (tracks + 1023) // 1024)
        if tracks >= heads * 1024 or heads > 16:
            track, heads, tracks = 31, 16, sectors // 31
        if tracks >= heads * 1024:
            track, heads, tracks = 63, 16, sectors // 63
    return tracks // heads, heads, track


def footer(size: int, kind: int, uuid: bytes, *, creator: bytes = b"win ", system: bytes = b"Wi2k", stamp: int = STAMP,
           chs: tuple[int, int, int] | None = None) -> bytes:
    data = bytearray(struct.pack(">8sIIQI4sI4sQQHBBII16sB", b"conectix", 2, 0x10000, NONE if kind == FIXED else 512, stamp,
                                 creator, 0x60001, system, size, size, *(chs or geometry(size // 512)), kind, 0, uuid, 0))
    data = data.ljust(512, b"\0")
    struct.pack_into(">I", data, 64, checksum(data, 64))
    return bytes(data)


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def sparse(data: bytes, name: str, *, block: int = 2 << 20, own: Callable[[int], bool] | None = None, overshoot: int = 0,
           parent: "tuple[bytes, str, str] | None" = None, backwards: bool = False, keep: Collection[int] = (),
           **more: object) -> bytearray:
    """A dynamic or, with a parent (its UUID, relative and absolute Windows name), a differencing image. `own` tells
    which sectors are the image's own (default: those that are not zero); a block is stored if it has one, or is in
    `keep`. The places of other sectors in a stored block of a differencing image hold junk."""
    sectors = [data[at:at + 512] for at in range(0, len(data), 512)]
    mine = [any(s) if own is None else own(n) for n, s in enumerate(sectors)]
    per, count = block // 512, -(-len(data) // block)
    bitmap_size = up(per // 8, 512) if per >= 8 else 512
    blocks = [n for n in range(count) if n in keep or any(mine[n * per:(n + 1) * per])]
    foot = footer(len(data), DIFFERENCING if parent else DYNAMIC, uuid_of(name), **more)  # type: ignore[arg-type]
    bat_at, entries = 1536, count + overshoot
    locators_at = bat_at + up(entries * 4, 512)
    head = bytearray(struct.pack(">8sQQIIII16sII", b"cxsparse", NONE, bat_at, 0x10000, entries, block, 0,
                                 parent[0] if parent else bytes(16), STAMP if parent else 0, 0).ljust(1024, b"\0"))
    locators = b""
    if parent:
        short = parent[2].rsplit("\\", 1)[-1]
        head[64:64 + 2 * len(short)] = short.encode("utf-16-be")
        for index, (code, text) in enumerate([(b"W2ru", parent[1]), (b"W2ku", parent[2])]):
            raw = text.encode("utf-16-le")
            struct.pack_into(">4sIIIQ", head, 576 + 24 * index, code, 512, len(raw), 0, locators_at + len(locators))
            locators += raw.ljust(up(len(raw), 512), b"\0")
    struct.pack_into(">I", head, 36, checksum(head, 36))
    first = locators_at + len(locators)
    bat = [0xFFFFFFFF] * entries
    order = blocks[::-1] if backwards else blocks
    for place, number in enumerate(order):
        bat[number] = (first + place * (bitmap_size + block)) // 512
    out = bytearray(foot + head + struct.pack(f">{entries}I", *bat).ljust(up(entries * 4, 512), b"\xff") + locators)
    for number in order:
        bitmap = bytearray(bitmap_size)
        content = bytearray()
        for index in range(per):
            at = number * per + index
            if at < len(sectors) and mine[at]:
                bitmap[index // 8] |= 0x80 >> index % 8
                content += sectors[at].ljust(512, b"\0")
            else:
                content += b"\xdd" * 512 if parent else bytes(512)
        out += bitmap + content
    return out + foot


def fixed(data: bytes, name: str, **more: object) -> bytearray:
    return bytearray(data + footer(len(data), FIXED, uuid_of(name), **more))  # type: ignore[arg-type]


def fix_vhd(image: "Image", uuid: bytes | None = None) -> None:
    """Replace time stamp and UUID in both copies of the footer."""
    data = bytearray(image.io().path.read_bytes())
    for at in (0, len(data) - 512):
        if data[at:at + 8] == b"conectix":
            data[at + 24:at + 28] = struct.pack(">I", STAMP)
            data[at + 68:at + 84] = uuid or uuid_of(image.path.name)
            data[at + 64:at + 68] = struct.pack(">I", checksum(data[at:at + 512], 64))
    image.path.write_bytes(data)
    image.commands.append("[patched: footer time stamp, UUID, checksum]")
