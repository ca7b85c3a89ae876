"""Writing Apple's images by hand: DMG (UDIF), sparse images and ASIF, after their public descriptions."""

from __future__ import annotations

import base64
import bz2
import lzma
import struct
import zlib
from dataclasses import dataclass, field
from typing import Sequence

from relativeskit import split

TYPES = {"zero": 0, "raw": 1, "ignore": 2, "adc": 0x80000004, "zlib": 0x80000005, "bzip2": 0x80000006, "lzfse": 0x80000007,
         "lzvn": 0x80000007, "lzma": 0x80000008, "unknown": 0x80000009}
END = 0xFFFFFFFF
COMMENT = 0x7FFFFFFE


def matches(data: bytes, shortest: int, longest: int, window: int) -> list[tuple[bytes, int, int]]:
    """Literals, and how long and from how far before what follows is repeated: a simple search."""
    steps, seen, at, start = [], {}, 0, 0
    while at < len(data):
        key = data[at:at + 6]
        before = seen.get(key, -1)
        seen[key] = at
        length = 0
        if before >= 0 and at - before <= window and len(key) == 6:
            while length < longest and at + length < len(data) and data[before + length] == data[at + length]:
                length += 1
        if length >= shortest:
            steps.append((data[start:at], length, at - before))
            at += length
            start = at
        else:
            at += 1
    return steps + [(data[start:], 0, 0)]


def adc(data: bytes) -> bytes:
    out = b""
    for literals, length, distance in matches(data, 6, 67, 1 << 16):
        for at in range(0, len(literals), 128):
            part = literals[at:at + 128]
            out += bytes([0x80 | len(part) - 1]) + part
        if length and length <= 18 and distance <= 1024:
            out += bytes([length - 3 << 2 | distance - 1 >> 8, distance - 1 & 0xFF])
        elif length:
            out += bytes([0x40 | length - 4]) + struct.pack(">H", distance - 1)
    return out


def lzvn(data: bytes) -> bytes:
    """One LZFSE block of LZVN, and the end."""
    out = b""
    for literals, length, distance in matches(data, 6, 271, 0xFFFF):
        for at in range(0, len(literals), 271):
            part = literals[at:at + 271]
            out += (bytes([0xE0, len(part) - 16]) if len(part) >= 16 else bytes([0xE0 | len(part)])) + part
        if length:
            first = min(length, 10)
            if distance < 0x600:
                out += bytes([first - 3 << 3 | distance >> 8, distance & 0xFF]) if distance >> 8 < 6 else b""
            elif distance < 1 << 14 and length <= 34:
                first = length
                out += bytes([0xA0 | first - 3 >> 2]) + struct.pack("<H", distance << 2 | first - 3 & 3)
            else:
                out += bytes([first - 3 << 3 | 7]) + struct.pack("<H", distance)
            rest = length - first
            if rest >= 16:
                out += bytes([0xF0, rest - 16])
            elif rest:
                out += bytes([0xF0 | rest])
    out += b"\x06" + bytes(7)
    return b"bvxn" + struct.pack("<II", len(data), len(out)) + out + b"bvx$"


def stored(data: bytes) -> bytes:
    """LZFSE blocks that are stored."""
    return b"".join(b"bvx-" + struct.pack("<I", len(part)) + part for part in split_exact(data, 5000)) + b"bvx$"


def split_exact(data: bytes, unit: int) -> list[bytes]:
    return [data[at:at + unit] for at in range(0, len(data), unit)]


PACK = {"raw": bytes, "adc": adc, "zlib": zlib.compress, "bzip2": bz2.compress, "lzfse": stored, "lzvn": lzvn,
        "lzma": lzma.compress, "unknown": bytes}


@dataclass
class Table:
    """A table of chunks: where it starts (sectors), and its chunks: a kind, and how many sectors."""
    name: str
    start: int
    chunks: Sequence[tuple[str, int]]
    streams: dict[int, bytes] = field(default_factory=dict)  # instead of what would be written for a chunk
    wrong_sum: bool = False


def checksum(value: int) -> bytes:
    return struct.pack(">III", 2, 32, value).ljust(136, b"\0")


def resource_fork(resources: Sequence[tuple[str, bytes]]) -> bytes:
    """Resources of the type blkx."""
    data, names, references = b"", b"", b""
    for number, (name, body) in enumerate(resources):
        references += struct.pack(">hHII", number - 1, len(names), 0x50 << 24 | len(data), 0)
        names += bytes([len(name)]) + name.encode()
        data += struct.pack(">I", len(body)) + body
    types = struct.pack(">H4sHH", 0, b"blkx", len(resources) - 1, 10) + references
    map_at = 256 + len(data)
    rest = struct.pack(">HH", 28, 28 + len(types)) + types + names
    header = struct.pack(">IIII", 256, map_at, len(data), 24 + len(rest))
    return header.ljust(256, b"\0") + data + header + bytes(8) + rest


def plist(resources: Sequence[tuple[str, bytes]]) -> bytes:
    dicts = ""
    for number, (name, body) in enumerate(resources):
        text = base64.encodebytes(body).decode().replace("\n", "\n\t\t\t\t")
        dicts += (f"\t\t\t<dict>\n\t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n\t\t\t\t<key>Data</key>\n"
                  f"\t\t\t\t<data>\n\t\t\t\t{text}</data>\n\t\t\t\t<key>ID</key>\n\t\t\t\t<string>{number - 1}</string>\n"
                  f"\t\t\t\t<key>Name</key>\n\t\t\t\t<string>{name}</string>\n\t\t\t</dict>\n")
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" '
            '"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n<plist version="1.0">\n<dict>\n\t<key>resource-fork</key>\n'
            f"\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n{dicts}\t\t</array>\n\t</dict>\n</dict>\n</plist>\n").encode()


def dmg(data: bytes, tables: Sequence[Table], *, xml: bool = True, fork: bool = False, front: bool = False, fork_at: int = 0,
        data_offset: int = 0, sectors: int = 0, segments: int = 1, sums: bool = True, terminated: bool = True,
        version: int = 4) -> bytearray:
    """The disk `data` in these tables."""
    start = fork_at or (512 if front else 0)
    body, resources, master = bytearray(data_offset), [], b""
    for number, table in enumerate(tables):
        runs, at, seen = b"", 0, b""
        for index, (kind, count) in enumerate(table.chunks):
            part = data[(table.start + at) * 512:(table.start + at + count) * 512]
            stream = table.streams.get(index, PACK[kind](part) if kind in PACK else b"")
            runs += struct.pack(">IIQQQQ", TYPES[kind], 0, at, count, len(body) - data_offset, len(stream))
            body += stream
            seen += part if kind != "ignore" else b""
            at += count
        if terminated:
            runs += struct.pack(">IIQQQQ", END, 0, at, 0, len(body) - data_offset, 0)
        total = zlib.crc32(seen) ^ (0x55 if table.wrong_sum else 0)
        mish = struct.pack(">4sIQQQII24x", b"mish", 1, table.start, at, data_offset, 2049, number) + (checksum(total) if sums else bytes(136))
        resources.append((table.name, mish + struct.pack(">I", len(runs) // 40) + runs))
        master += struct.pack(">I", total)
    out = bytearray(start) + body
    resource_at, resource = len(out), resource_fork(resources) if fork else b""
    out += resource
    xml_at, text = len(out), plist(resources) if xml else b""
    out += text
    crc = checksum(zlib.crc32(body)) if sums else bytes(136)
    koly = struct.pack(">4sIIIQQQQQII16s", b"koly", version, 512, 1, 0, start, len(body), resource_at if fork else 0, len(resource),
                       1, segments, b"0123456789abcdef") + crc
    koly += struct.pack(">QQ120x", xml_at if xml else 0, len(text)) + (checksum(zlib.crc32(master)) if sums else bytes(136))
    koly += struct.pack(">IQ12x", 1, sectors or len(data) // 512)
    assert len(koly) == 512
    if front:
        out[:512] = koly
        return out
    return out + koly


def in_chunks(kind: str, sectors: int, unit: int) -> list[tuple[str, int]]:
    return [(kind, min(unit, sectors - at)) for at in range(0, sectors, unit)]


def by_content(data: bytes, kind: str, start: int, sectors: int, unit: int) -> list[tuple[str, int]]:
    """Chunks of this kind, but for what is zeros."""
    parts = split(data[start * 512:(start + sectors) * 512], unit * 512)
    return [(kind if any(part) else "ignore", count) for part, (_, count) in zip(parts, in_chunks(kind, sectors, unit))]


def sparseimage(data: bytes, *, band: int = 2, own: Sequence[int] | None = None, in_header: int = 1008, in_list: int = 1010) -> bytearray:
    """Bands of so many sectors, those in `own` (default: all that are not zero) in this order in the file."""
    size, sectors = band * 512, -(-len(data) // 512)
    bands = split(data, size)
    own = [n for n, part in enumerate(bands) if any(part)] if own is None else list(own)
    lists = [own[:in_header]]
    while len(lists[-1]) == (in_header if len(lists) == 1 else in_list) and sum(map(len, lists)) < len(own):
        lists.append(own[sum(map(len, lists)):][:in_list])
    out = bytearray()
    for number, numbers in enumerate(lists):
        slots = in_header if number == 0 else in_list
        behind = len(out) + 4096 + slots * size if number + 1 < len(lists) else 0
        if number == 0:
            head = struct.pack(">4sIIIIQQ28x", b"sprs", 3, band, 1, sectors & 0xFFFFFFFF, behind, sectors)
        else:
            head = struct.pack(">4sIIQ36x", b"sprs", number - 1, 1, behind)
        out += (head + struct.pack(f">{len(numbers)}I", *[n + 1 for n in numbers])).ljust(4096, b"\0")
        for n in numbers:
            out += bands[n]
    return out


def asif(data: bytes, *, sector: int = 512, chunk: int = 1 << 20, flags: int = 0, partial: Sequence[int] = (), swapped: bool = False,
         max_sectors: int = 0, version: int = 1) -> bytearray:
    """Chunks that are zeros are left out; of those in `partial`, sectors of zeros are marked as never written."""
    group = 4 * sector
    groups = chunk // (8 * (group + 1))
    span = groups * group * chunk
    sectors = -(-len(data) // sector)
    max_sectors = max_sectors or span * 2 // sector
    tables = -(-max_sectors * sector // span)
    out = bytearray(chunk * 2)  # the header and the directories, and a table
    struct.pack_into(">4sIIIQQ16sQQIHHQ", out, 0, b"shdw", version, 512, flags, chunk // 2, chunk // 2 + chunk // 4, bytes(range(16)),
                     sectors, max_sectors, chunk, sector, 0, 0)
    directories = [chunk // 2, chunk // 2 + chunk // 4]
    active, other = directories[::-1] if swapped else directories
    struct.pack_into(f">QQ", out, active, 7, 1)
    struct.pack_into(f">QQ", out, other, 6, 99)
    bitmaps: dict[int, int] = {}
    for number, part in enumerate(split(data, chunk)):
        if not any(part):
            continue
        entry = chunk + 8 * (number + number // group)
        place = len(out) // chunk
        status = 1
        if number in partial:
            status = 3
            if number // group not in bitmaps:
                bitmaps[number // group] = place
                struct.pack_into(">Q", out, chunk + 8 * ((number // group + 1) * (group + 1) - 1), place)
                out += bytes(chunk)
                place += 1
            at = bitmaps[number // group] * chunk
            body = bytearray(part)
            for index, content in enumerate(split(part, sector)):
                bit = number % group * (chunk // sector) + index
                if any(content):
                    out[at + bit // 4] |= 1 << 2 * (bit % 4)
                else:
                    body[index * sector:(index + 1) * sector] = b"\xee" * sector
            part = bytes(body)
        struct.pack_into(">Q", out, entry, status << 62 | place)
        out += part
    return out
