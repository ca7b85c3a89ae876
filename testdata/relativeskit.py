"""Writing files of the smaller formats by hand, after their specifications."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Collection, Sequence


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def split(data: bytes, unit: int) -> list[bytes]:
    """The data in units, the last one filled up with zeros."""
    return [data[at:at + unit].ljust(unit, b"\0") for at in range(0, len(data), unit)]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def qcow(data: bytes, *, cluster_bits: int = 12, l2_bits: int = 9, packed: Collection[int] = (), backing: str = "",
         own: Collection[int] | None = None, crypt: int = 0, backwards: bool = False, mtime: int = 0) -> bytearray:
    """QCOW version 1. `packed` are clusters to compress, `own` those to store (default: all that are not zero)."""
    size, span = 1 << cluster_bits, 1 << cluster_bits + l2_bits
    clusters = split(data, size)
    own = [n for n, cluster in enumerate(clusters) if any(cluster)] if own is None else sorted(own)
    tables = -(-len(data) // span)
    l1_at = up(48 + len(backing), 8)
    name_at = 48 if backing else 0
    out = bytearray(struct.pack(">4sIQIIQBBHIQ", b"QFI\xfb", 1, name_at, len(backing), mtime, len(data), cluster_bits, l2_bits, 0,
                                crypt, l1_at))
    out += backing.encode()
    out = out.ljust(up(l1_at + 8 * tables, size), b"\0")
    l2: dict[int, list[int]] = {}
    for number in reversed(own) if backwards else own:
        table = l2.setdefault(number >> l2_bits, [0] * (1 << l2_bits))
        stream = deflated(clusters[number]) if number in packed else clusters[number]
        if len(stream) < size:
            table[number & (1 << l2_bits) - 1] = 1 << 63 | len(stream) << 63 - cluster_bits | len(out)
        else:
            out = out.ljust(up(len(out), size), b"\0")
            table[number & (1 << l2_bits) - 1] = len(out)
        out += stream
    for number, table in l2.items():
        out = out.ljust(up(len(out), 8), b"\0")
        struct.pack_into(">Q", out, l1_at + 8 * number, len(out))
        out += struct.pack(f">{len(table)}Q", *table)
    return out


def qed(data: bytes, *, cluster: int = 4096, table: int = 2, header: int = 1, features: int = 0, backing: str = "",
        own: Collection[int] | None = None, zero: Collection[int] = (), backwards: bool = False, compat: int = 0,
        autoclear: int = 0) -> bytearray:
    """`own` are the clusters to store (default: all that are not zero), `zero` those to mark as zeros."""
    clusters, entries = split(data, cluster), table * cluster // 8
    own = [n for n, c in enumerate(clusters) if any(c) and n not in zero] if own is None else sorted(own)
    features |= 1 if backing else 0
    l1_at = header * cluster
    out = bytearray(struct.pack("<4sIIIQQQQQII", b"QED\0", cluster, table, header, features, compat, autoclear, l1_at, len(data),
                                64 if backing else 0, len(backing)) + backing.encode())
    out = out.ljust(l1_at + table * cluster, b"\0")
    l2: dict[int, int] = {}

    def put(number: int, value: int) -> None:
        if number // entries not in l2:
            l2[number // entries] = len(out)
            struct.pack_into("<Q", out, l1_at + 8 * (number // entries), len(out))
            out.extend(bytes(table * cluster))
        struct.pack_into("<Q", out, l2[number // entries] + 8 * (number % entries), value)

    for number in reversed(own) if backwards else own:
        put(number, 0)  # the table comes before the cluster
        put(number, len(out))
        out += clusters[number]
    for number in zero:
        put(number, 1)
    return out


def parallels(data: bytes, *, tracks: int = 128, ext: bool = True, data_off: int | None = None, in_use: int = 0x312E3276,
              flags: int = 0, own: Collection[int] | None = None, backwards: bool = False, bitmap: bytes = b"", unknown: bytes = b"",
              entries: int = 0, sectors: int = 0) -> bytearray:
    """`own` are the clusters to store; `bitmap` is the id of a dirty bitmap to note in a format extension, before a section `unknown`."""
    cluster = tracks * 512
    clusters = split(data, cluster)
    own = [n for n, c in enumerate(clusters) if any(c)] if own is None else sorted(own)
    count = entries or len(clusters)
    start = up(64 + 4 * count, cluster if ext else 512)
    out = bytearray(start)
    order = list(reversed(own)) if backwards else own
    bat = [0] * count
    for number in order:
        bat[number] = len(out) // (cluster if ext else 512)
        out += clusters[number]
    ext_off = 0
    if bitmap:
        ext_off = len(out) // 512
        section = struct.pack("<Q16sII", len(data) // 512, bitmap, 128, 1) + struct.pack("<Q", 1)
        sections = (struct.pack("<QQII", 0x20385FAE252CB34A, 0, len(section), 0) + section + unknown).ljust(
            cluster - 24, b"\0")
        out += struct.pack("<Q", 0xAB234CEF23DCEA87) + hashlib.md5(sections).digest() + sections
    data_off = (start // 512 if ext else 0) if data_off is None else data_off
    magic = b"WithouFreSpacExt" if ext else b"WithoutFreeSpace"
    struct.pack_into(f"<16sIIIIIQIIIQ{count}I", out, 0, magic, 2, 16, 1, tracks, count, sectors or up(len(data), 512) // 512, in_use,
                     data_off, flags, ext_off, *bat)
    return out


GUID = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
NO_GUID = "{00000000-0000-0000-0000-000000000000}"


def descriptor(parts: Sequence[tuple[int, int, int, Sequence[tuple[str, str, str]]]], shots: Sequence[tuple[str, str]],
               top: str = "", parameters: str = "<Padding>0</Padding>") -> bytes:
    """`DiskDescriptor.xml`: parts are start, end, block size (sectors) and images: GUID, type, file."""
    def image(guid: str, kind: str, file: str) -> str:
        return f"<Image><GUID>{guid}</GUID><Type>{kind}</Type><File>{file}</File></Image>"

    storages = "\n".join(f"<Storage><Start>{start}</Start><End>{end}</End><Blocksize>{block}</Blocksize>"
                         + "".join(image(*i) for i in images) + "</Storage>" for start, end, block, images in parts)
    snapshots = "".join(f"<Shot><GUID>{guid}</GUID><ParentGUID>{parent}</ParentGUID></Shot>" for guid, parent in shots)
    top = f"<TopGUID>{top}</TopGUID>" if top else ""
    return f"""<?xml version='1.0' encoding='UTF-8'?>
<Parallels_disk_image Version="1.0">
<Disk_Parameters><Disk_size>{max(part[1] for part in parts)}</Disk_size>{parameters}</Disk_Parameters>
<StorageData>{storages}</StorageData>
<Snapshots>{top}{snapshots}</Snapshots>
</Parallels_disk_image>
""".encode()


def bochs(data: bytes, *, version: int = 0x20000, extent: int = 16 * 512, bitmap: int = 0, subtype: str = "Growing",
          backwards: bool = False, catalog: int = 0, whole: Collection[int] = ()) -> bytearray:
    """Sectors of zeros are left out, but for those of the extents in `whole`."""
    extents = split(data, extent)
    bitmap = bitmap or up(extent // 512, 8) // 8
    count = catalog or max(1, len(extents))
    out = bytearray(struct.pack("<32s16s16sIIIII", b"Bochs Virtual HD Image", b"Redolog", subtype.encode(), version, 512, count,
                                bitmap, extent))
    out += struct.pack("<Q", len(data)) if version == 0x10000 else struct.pack("<IQ", 0, len(data))
    out = out.ljust(512, b"\0") + b"\xff" * (4 * count)
    numbers = [n for n, e in enumerate(extents) if any(e) or n in whole]
    for place, number in enumerate(reversed(numbers) if backwards else numbers):
        struct.pack_into("<I", out, 512 + 4 * number, place)
        bits = bytearray(up(bitmap, 512))
        for sector, content in enumerate(split(extents[number], 512)):
            if any(content) or number in whole:
                bits[sector >> 3] |= 1 << (sector & 7)
        out += bits + extents[number]
    return out


CLOOP = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"


def cloop(data: bytes, *, block: int = 65536, level: int = 9) -> bytearray:
    streams = [zlib.compress(part, level) for part in split(data, block)]
    out = bytearray(CLOOP.ljust(128, b"\0") + struct.pack(">II", block, len(streams)))
    at = 136 + 8 * (len(streams) + 1)
    for stream in streams:
        out += struct.pack(">Q", at)
        at += len(stream)
    return out + struct.pack(">Q", at) + b"".join(streams)


CHUNKS = {"raw": 0xCAC1, "fill": 0xCAC2, "skip": 0xCAC3, "crc": 0xCAC4, "unknown": 0xCAC5}


def simg(data: bytes, chunks: Sequence[tuple[str, int]], *, block: int = 4096, header: int = 28, chunk_header: int = 12, total: int = 0,
         version: int = 1, checksum: int = 0) -> bytearray:
    """An Android sparse image; chunks are a kind, and how many blocks."""
    out = bytearray(struct.pack("<IHHHHIIII", 0xED26FF3A, version, 0, header, chunk_header, block, total or len(data) // block,
                                len(chunks), checksum).ljust(header, b"\0"))
    at = 0
    for kind, count in chunks:
        part = data[at * block:(at + count) * block]
        body = {"raw": part, "fill": part[:4]}.get(kind, b"")
        if kind == "crc":
            body = struct.pack("<I", zlib.crc32(data[:at * block]))
        out += struct.pack("<HHII", CHUNKS[kind], 0, count, chunk_header + len(body)).ljust(chunk_header, b"\0") + body
        at += count
    return out
