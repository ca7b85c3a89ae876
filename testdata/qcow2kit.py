"""Editing of qcow2 images by hand: the header, and the dates of snapshots."""

from __future__ import annotations

import struct
from pathlib import Path


class Qcow2Header:
    """The first cluster's fields and extensions; `save` lays them out anew."""

    EXT_BACKING_FORMAT, EXT_FEATURE_NAMES = 0xE2792ACA, 0x6803F857

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as image:
            data = image.read(4096)
        assert data[:4] == b"QFI\xfb"
        length = 72 if data[7] == 2 else int.from_bytes(data[100:104], "big")
        self.fields = bytearray(data[:length])
        self.extensions: list[tuple[int, bytes]] = []
        at = length
        while True:
            kind, size = struct.unpack_from(">II", data, at)
            at += 8
            if kind == 0:
                break
            self.extensions.append((kind, data[at:at + size]))
            at += (size + 7) & ~7
        name_at, name_length = struct.unpack_from(">QI", data, 8)
        self.backing = data[name_at:name_at + name_length] if name_at else b""
        self.old_end = max(at, name_at + name_length)

    def put(self, offset: int, layout: str, value: int) -> None:
        struct.pack_into(">" + layout, self.fields, offset, value)

    def set_bit(self, offset: int, bit: int) -> None:
        """Set a bit of the 64-bit big-endian field at `offset`."""
        self.put(offset, "Q", struct.unpack_from(">Q", self.fields, offset)[0] | 1 << bit)

    def save(self) -> None:
        if self.fields[7] >= 3:
            self.put(100, "I", len(self.fields))
        tail = b"".join(
            struct.pack(">II", kind, len(body)) + body.ljust((len(body) + 7) & ~7, b"\0")
            for kind, body in self.extensions
        ) + bytes(8)
        if self.backing:
            self.put(8, "Q", len(self.fields) + len(tail))
        whole = bytes(self.fields) + tail + self.backing
        cluster = 1 << struct.unpack_from(">I", self.fields, 20)[0]
        assert len(whole) <= cluster
        with self.path.open("r+b") as image:
            image.write(whole.ljust(self.old_end, b"\0"))


def fix_snapshot_dates(path: Path) -> None:
    """Replace the wall-clock time in every snapshot table entry by a fixed one."""
    with path.open("r+b") as image:
        image.seek(60)
        count, at = struct.unpack(">IQ", image.read(12))
        for index in range(count):
            image.seek(at)
            entry = image.read(40)
            id_size, name_size = struct.unpack_from(">HH", entry, 12)
            extra = struct.unpack_from(">I", entry, 36)[0]
            image.seek(at + 16)
            image.write(struct.pack(">II", 1_700_000_000 + index, 0))
            at += (40 + extra + id_size + name_size + 7) & ~7
