"""The content of the images: what is written, and the model of what a guest must read."""

from __future__ import annotations

import hashlib
import random
import struct
from pathlib import Path
from typing import Iterable

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
Writes = Iterable[tuple[int, bytes]]


# --- content ---------------------------------------------------------------

HOSTS = ["node-a", "node-b", "gateway"]
NOTES = [
    "kernel: EXT4-fs (vda1): mounted filesystem with ordered data mode. Opts: (null). Quota mode: none.",
    "systemd[1]: Finished Rotate log files; deactivated successfully, consumed 24ms CPU time.",
    "cloud-init[402]: Cloud-init running 'modules:config', network interfaces up, no datasource changes.",
    "sshd[733]: Server listening on 0.0.0.0 port 22, and on :: port 22; accepting public keys only.",
    "dhclient[388]: bound to 10.0.2.15 -- renewal in 38211 seconds, lease kept for the next boot.",
]


def rng_for(name: str) -> random.Random:
    """A generator whose stream depends on `name` only."""
    return random.Random("diskimage/" + name)


def text(rng: random.Random, length: int) -> bytes:
    """Log-like lines: compress about 12:1."""
    lines, total, number = [], 0, rng.randrange(1000, 9000)
    while total < length:
        line = f"{number:06d} {rng.choice(HOSTS)} {rng.choice(NOTES)}\n".encode()
        lines.append(line)
        total += len(line)
        number += 1
    return b"".join(lines)[:length]


def holed_text(rng: random.Random, length: int) -> bytes:
    """Text with runs of zeros whose ends meet no cluster border."""
    data = bytearray(text(rng, length))
    for _ in range(3):
        start = rng.randrange(length)
        run = min(length - start, rng.randrange(1, length // 3 + 2))
        data[start:start + run] = bytes(run)
    return bytes(data)


def scatter(rng: random.Random, size: int, cluster: int, count: int = 6) -> Writes:
    """Unaligned writes: both ends of the disk, cluster borders, a long run, and random places."""
    yield 0, text(rng, min(size, 1500))
    if size > 4096:
        yield size - 777, text(rng, 777)
    last = max(1, (size - 1) // cluster)
    border = cluster * rng.randint(1, last)
    if border + 300 <= size:
        yield border - 200, rng.randbytes(500)[: size - border + 200]
    long_run = min(size // 4, 5 * cluster // 2, 100 * KIB)
    yield rng.randrange(size - long_run), holed_text(rng, long_run)
    for index in range(count):
        length = min(size // 8, rng.randrange(200, 4000))
        offset = rng.randrange(size - length)
        if index % 3 == 0:
            yield offset, rng.randbytes(length // 4)
        elif index % 3 == 1:
            yield offset, b"\xff" * length
        else:
            yield offset, holed_text(rng, length)


def units(rng: random.Random, size: int, unit: int, count: int) -> Writes:
    """Aligned writes of exactly one or two `unit`s."""
    for index in range(count):
        length = unit * (1 + index % 2)
        yield rng.randrange((size - length) // unit) * unit, text(rng, length)


def content(name: str, size: int, cluster: int = 64 * KIB, count: int = 8) -> "Guest":
    """A disk full of scattered pieces."""
    guest = Guest(size)
    for offset, data in scatter(rng_for(name), size, cluster, count):
        guest.write(offset, data)
    return guest


class Guest:
    """The bytes a guest sees, kept in pages so that a huge empty disk costs nothing."""

    PAGE = 64 * KIB

    def __init__(self, size: int, pages: dict[int, bytearray] | None = None) -> None:
        self.size = size
        self.pages = pages if pages is not None else {}

    @classmethod
    def of(cls, data: bytes) -> "Guest":
        guest = cls(len(data))
        guest.write(0, data)
        return guest

    def write(self, offset: int, data: bytes) -> None:
        assert 0 <= offset and offset + len(data) <= self.size, "write past the end"
        done = 0
        while done < len(data):
            number, inside = divmod(offset + done, self.PAGE)
            step = min(self.PAGE - inside, len(data) - done)
            page = self.pages.setdefault(number, bytearray(self.PAGE))
            page[inside:inside + step] = data[done:done + step]
            done += step

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // self.PAGE, (offset + length - 1) // self.PAGE
        empty = bytes(self.PAGE)
        joined = b"".join(self.pages.get(n, empty) for n in range(first, last + 1))
        return joined[offset - first * self.PAGE:][:length]

    def resized(self, size: int) -> "Guest":
        """A copy cut to `size`, or lengthened with zeros."""
        copy = Guest(size)
        for number, page in self.pages.items():
            start = number * self.PAGE
            if start < size:
                copy.write(start, bytes(page[: min(self.PAGE, size - start)]))
        return copy

    def chunks(self) -> Iterable[bytes]:
        empty = bytes(self.PAGE)
        for start in range(0, self.size, self.PAGE):
            yield self.pages.get(start // self.PAGE, empty)[: self.size - start]

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a sparse raw file (all-zero pages become holes)."""
        with path.open("wb") as out:
            for number, page in sorted(self.pages.items()):
                if any(page):
                    out.seek(number * self.PAGE)
                    out.write(page[: self.size - number * self.PAGE])
            out.truncate(self.size)


def mbr(sectors: int, first: int = 2048, kind: int = 0x83) -> bytes:
    """A boot sector with one partition from `first` to the disk's end."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\x20\x21\x00", kind, b"\xfe\xff\xff", first, sectors - first)
    sector = b"\xeb\x63\x90" + bytes(437) + struct.pack("<IH", 0x1BADD00D, 0) + entry
    return sector.ljust(510, b"\0") + b"\x55\xaa"
