"""What the makers of hostile images share: the disk, a small QCOW2 image of it, and the set that is written."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Callable, Iterator

KIB, MIB = 1 << 10, 1 << 20
CLUSTER = 64 * KIB
ZEROS = bytes(4096)

# A disk of 1 MiB with data at its start, in its middle and at its end.
DISK = bytearray(MIB)
for _at in (0, 300_000, MIB - 4096):
    DISK[_at:_at + 4096] = bytes((_at + 7 * n + n // 251) % 255 + 1 for n in range(4096))
DISK = bytes(DISK)

# Names that lead out of the image, by a path, a protocol or a driver.
OUTSIDE = {
    "absolute": b"/etc/passwd", "relative": b"other.raw", "upwards": b"../../../etc/passwd", "device": b"/dev/sda",
    "proc": b"/proc/self/mem", "nbd": b"nbd://127.0.0.1:10809/x", "http": b"http://127.0.0.1/x.raw",
    "json": b'json:{"driver":"file","filename":"/etc/passwd"}', "fat": b"fat:/etc", "blkdebug": b"blkdebug::/etc/passwd",
    "itself": b"case.img", "escape": b"\x1b]0;title\x07\x1b[2J.raw", "newline": b"a\nb.raw", "not-utf8": b"\xff\xfe.raw",
    "empty-parts": b"./././/x", "home": b"~/x", "windows": b"C:\\Windows\\win.ini", "unc": b"\\\\host\\share\\x.vhd",
    "long": b"x" * 1023,
}


def qcow2(*, version: int = 3, backing: bytes = b"", extensions: bytes = b"", l2_at: int = 4, compressed: bytes | None = None,
          incompatible: int = 0, bits: int = 16, crypt: int = 0) -> bytearray:
    """DISK as a QCOW2 image: header, refcount table and block, L1 table, L2 table, data."""
    cluster = 1 << bits
    data = [number for number in range(0, len(DISK), cluster) if any(DISK[number:number + cluster])]
    l2, body = [0] * (cluster // 8), b""
    for number in data:
        l2[number // cluster] = 1 << 63 | 5 * cluster + len(body)
        body += DISK[number:number + cluster].ljust(cluster, b"\0")
    if compressed is not None:
        at = 5 * cluster + len(body)
        body += compressed
        shift = 62 - (bits - 8)
        l2[0] = 1 << 62 | at | ((at + len(compressed) - 1) // 512 - at // 512) << shift
    clusters = 5 + -(-len(body) // cluster)
    header = bytearray(struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, bits, len(DISK), crypt, 1, 3 * cluster,
                                   cluster, 1, 0, 0))
    if version > 2:
        header += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    header += extensions + bytes(8)
    if backing:
        struct.pack_into(">QI", header, 8, len(header), len(backing))
        header += backing
    refcounts = [1] * clusters
    tables = [bytes(header), struct.pack(">Q", 2 * cluster), struct.pack(f">{clusters}H", *refcounts),
              struct.pack(">Q", 1 << 63 | l2_at * cluster), struct.pack(f">{len(l2)}Q", *l2)]
    return bytearray(b"".join(table.ljust(cluster, b"\0") for table in tables) + body)


def extension(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">II", kind, len(body) if length is None else length) + body.ljust(-(-len(body) // 8) * 8, b"\0")


def extreme(width: int, size: int) -> Iterator[tuple[str, int]]:
    """Values of a field of so many bytes that a reader should think of, for a file of `size` bytes."""
    top = (1 << 8 * width) - 1
    values = {"zero": 0, "one": 1, "max": top, "sign": top >> 1, "below-sign": (top >> 1) - 1, "top-bit": (top >> 1) + 1,
              "size": size, "size-1": size - 1, "size-sectors": size // 512, "mid": (1 << 4 * width) + 1}
    seen = set()
    for name, value in values.items():
        if value <= top and value not in seen:
            seen.add(value)
            yield name, value


class Set:
    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.names = folder, [], set()

    def add(self, name: str, format: str, data: bytes, expected: str, attack: str, *, kind: str, flags: list[str] | None = None,
            forced: bool = True, same: bytes | None = None, alt: list[str] | None = None, length: int = 0) -> None:
        assert name not in self.names, name
        self.names.add(name)
        suffix = {"vpc": "vhd"}.get(format, format)
        self.write(f"{name}.{suffix}", data, length)
        self.case(f"{name}.{suffix}", format, expected, attack, kind=kind, flags=flags, forced=forced, same=same, alt=alt)

    def add_folder(self, name: str, format: str, files: dict[str, bytes | str], attack: str, *, kind: str,
                   expected: str = "must_reject_by_policy") -> None:
        """A case of several files, the first one of which is the image: bytes, or "fifo", "folder", "link TARGET" or
        "same NAME" for a second name of a file. It is refused also where files of its folder are allowed."""
        assert name not in self.names, name
        self.names.add(name)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            path = folder / file
            path.unlink(missing_ok=True) if not path.is_dir() else None
            match content if isinstance(content, str) else content[:0] or "":
                case "fifo":
                    os.mkfifo(path)
                case "folder":
                    path.mkdir(exist_ok=True)
                case link if link.startswith("link "):
                    path.symlink_to(link[5:])
                case same if same.startswith("same "):
                    path.hardlink_to(folder / same[5:])
                case _:
                    self.write(f"{name}/{file}", content, 0)
        self.case(f"{name}/{next(iter(files))}", format, expected, attack, kind=kind, refused_if_allowed=True)

    def write(self, name: str, data: bytes, length: int) -> None:
        """Runs of zeros become holes; a file of `length` bytes ends with one."""
        with (self.folder / name).open("wb") as file:
            for at in range(0, len(data), 4096):
                piece = data[at:at + 4096]
                if piece != ZEROS[:len(piece)]:
                    file.seek(at)
                    file.write(piece)
            file.truncate(max(length, len(data)))

    def case(self, file: str, format: str, expected: str, attack: str, *, kind: str, flags: list[str] | None = None,
             forced: bool = True, same: bytes | None = None, alt: list[str] | None = None,
             refused_if_allowed: bool = False) -> None:
        case = {"file": file, "format": format, "open_as": format if forced else None, "class": kind,
                "attack": attack, "expected": expected}
        if flags:
            case["flags"] = flags
        if alt:
            case["alt_ok"] = alt
        if refused_if_allowed:
            case["refused_if_allowed"] = True
        if same is not None:
            case |= {"guest_sha256": hashlib.sha256(same).hexdigest(), "guest_size": len(same)}
        self.lines.append(json.dumps(case))

    def sweep(self, prefix: str, format: str, base: bytes, fields: dict[str, tuple[int, str]],
              reseal: Callable[[bytearray], object] = lambda data: None) -> None:
        """Each field at each extreme, with the checksums made good."""
        for field, (at, layout) in fields.items():
            width = struct.calcsize(layout)
            for name, value in extreme(width, len(base)):
                data = bytearray(base)
                struct.pack_into(layout, data, at, value)
                reseal(data)
                self.add(f"{prefix}-{field}-{name}", format, bytes(data), "must_not_hang_or_balloon",
                         f"{field} is {value:#x}", kind=f"{format}-fields")

    def cuts(self, prefix: str, format: str, base: bytes, places: list[int]) -> None:
        for place in places:
            self.add(f"{prefix}-cut-{place}", format, base[:place], "must_reject_open",
                     f"the file ends after {place} of {len(base)} bytes", kind=f"{format}-truncated")
