"""Writing VDI files by hand, after the header that VirtualBox writes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Collection

if TYPE_CHECKING:
    from imagekit import Image

DYNAMIC, STATIC, UNDO, DIFFERENCING = 1, 2, 3, 4
FREE, DISCARDED = 0xFFFFFFFF, 0xFFFFFFFE
VIRTUALBOX = "<<< Oracle VM VirtualBox Disk Image >>>\n"


def uuid_of(name: str, what: str = "image") -> bytes:
    return f"{what[0]}:{name}".encode().ljust(16, b".")[:16]


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def image(data: bytes, name: str, *, kind: int = DYNAMIC, block: int = 1 << 20, extra: int = 0, text: str = VIRTUALBOX,
          own: Collection[int] | None = None, discarded: Collection[int] = (), parent: str = "", note: str = "",
          backwards: bool = False, align: int = 1 << 20, size: int = 0) -> bytearray:
    """`own` are the blocks to store (default: all that are not zero); `extra` bytes of junk precede each of them."""
    blocks = [data[at:at + block] for at in range(0, len(data), block)]
    own = [n for n, b in enumerate(blocks) if kind == STATIC or any(b)] if own is None else sorted(own)
    bmap_at = up(512, align)
    data_at = up(bmap_at + 4 * len(blocks), align)
    table = [FREE] * len(blocks)
    order = list(reversed(own)) if backwards else own
    for place, number in enumerate(order):
        table[number] = place
    for number in discarded:
        table[number] = DISCARDED
    head = struct.pack("<64sIIIII256sIIIIIIIQIIII", text.encode(), 0xBEDA107F, 0x00010001, 400, kind, 0, note.encode(),
                       bmap_at, data_at, 0, 0, 0, 512, 0, size or len(data), block, extra, len(blocks), len(own))
    head += uuid_of(name) + uuid_of(name, "modified")
    head += uuid_of(parent) + uuid_of(parent, "modified") if parent else bytes(32)
    head += struct.pack("<IIII", 4, 16, 63, 512)
    out = bytearray(head.ljust(bmap_at, b"\0"))
    out += struct.pack(f"<{len(table)}I", *table)
    out = out.ljust(data_at, b"\0")
    for number in order:
        out += b"\xee" * extra + blocks[number].ljust(block, b"\0")
    return out


def fix_vdi(image: "Image") -> None:
    """Replace the random UUIDs."""
    def change(data: bytearray) -> None:
        data[392:424] = uuid_of(image.path.name) + uuid_of(image.path.name, "modified")
    image.edit("UUIDs", change)
