"""Small readers of VMDK, VHD, VHDX and VDI (and of plain qcow2), to check the writers.

They share no code with the writers, hold everything in memory, and read what the
test images need, no more. `read` gives the guest's bytes or raises `Refused`.
"""

from __future__ import annotations

import re
import struct
import uuid
import zlib
from pathlib import Path


class Refused(Exception):
    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def corrupt(message: str) -> Refused:
    return Refused("refuse-corrupt", message)


def unsupported(message: str) -> Refused:
    return Refused("refuse-unsupported", message)


def missing(message: object) -> Refused:
    return Refused("refuse-missing-parent", str(message))


def read(path: Path) -> bytes:
    readers = {".vmdk": read_vmdk, ".vhd": read_vhd, ".vhdx": read_vhdx, ".vdi": read_vdi, ".qcow2": read_qcow2}
    return bytes(readers[path.suffix](path))


def parent_of(child: Path, name: str) -> bytearray:
    found = child.parent / name.replace("\\", "/")
    if not found.exists():
        raise missing(found)
    return bytearray(read(found))


def fit(data: bytearray, size: int) -> bytearray:
    return data[:size].ljust(size, b"\0")


# --- VMDK ------------------------------------------------------------------

REAL_DEVICES = {"custom", "fulldevice", "partitioneddevice", "vmfsraw", "vmfsrdm", "vmfspassthroughrawdevicemap"}
EXTENT_LINE = re.compile(r'^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"(.*?)"(?:\s+(\d+))?)?\s*$', re.M)


def read_vmdk(path: Path) -> bytearray:
    data = path.read_bytes()
    if data[:4] == b"KDMV":
        at, sectors = struct.unpack_from("<QQ", data, 28)
        if data[73:77] != b"\n \r\n":
            raise corrupt("line ends were converted")
        raw = data[at * 512:(at + sectors) * 512]
    else:
        raw = data
    raw = raw.split(b"\0")[0]
    named = re.search(rb'^encoding\s*=\s*"(.*?)"', raw, re.M)
    text = raw.decode(named[1].decode() if named else "utf-8").replace("\r\n", "\n")
    field = {key.lower(): value.strip('"') for key, value in re.findall(r'^([\w.]+)[ \t]*=[ \t]*(.*?)[ \t]*$', text, re.M)}
    if field["createtype"].lower() in REAL_DEVICES:
        raise unsupported(field["createtype"])
    lines = EXTENT_LINE.findall(text)
    size = sum(int(line[1]) for line in lines) * 512
    disk = bytearray(size)
    if field["parentcid"] != "ffffffff":
        if "parentfilenamehint" not in field:
            raise missing("no parent named")
        disk = fit(parent_of(path, field["parentfilenamehint"]), size)
        their = re.search(rb"\nCID=([0-9a-f]+)", (path.parent / field["parentfilenamehint"]).read_bytes())
        assert their and int(their[1], 16) == int(field["parentcid"], 16), "content ids"
    start = 0
    for access, count, kind, name, offset in lines:
        length = int(count) * 512
        if access == "NOACCESS":
            raise unsupported("no access to an extent")
        if kind == "ZERO":
            disk[start:start + length] = bytes(length)
        elif kind in ("FLAT", "VMFS"):
            body = (path.parent / name).read_bytes()[int(offset or 0) * 512:][:length]
            assert len(body) == length, "flat extent is too short"
            disk[start:start + length] = body
        else:
            body = data if data[:4] == b"KDMV" else (path.parent / name).read_bytes()
            for at, content in vmdk_pieces(body, kind):
                if at < length:
                    end = min(length, at + len(content))
                    disk[start + at:start + end] = content[:end - at]
        start += length
    return disk


def vmdk_pieces(data: bytes, kind: str) -> list[tuple[int, bytes]]:
    """The stored or zeroed grains of a sparse extent, with their offsets."""
    if kind == "SESPARSE":
        return se_sparse_pieces(data)
    zeroes = False
    packed = False
    if data[:4] == b"COWD":
        _, _, _, grain, gd_at, count = struct.unpack_from("<IIIIII", data, 4)
        per, spare = 4096, 0
    else:
        flags, capacity, grain = struct.unpack_from("<IQQ", data, 8)
        per, spare, gd_at = struct.unpack_from("<IQQ", data, 44)
        packed, zeroes = bool(flags & 0x10000), bool(flags & 4)
        if gd_at == 0xFFFFFFFFFFFFFFFF:
            foot = data[-1024:-512]
            if foot[:4] != b"KDMV" or data[-1536 + 12:-1536 + 16] != b"\3\0\0\0" or any(data[-512:]):
                raise corrupt("no footer")
            gd_at = struct.unpack_from("<Q", foot, 56)[0]
        count = -(-capacity // (grain * per))
    directory = struct.unpack_from(f"<{count}I", data, gd_at * 512)
    if any(entry * 512 > len(data) for entry in directory) and spare:
        directory = struct.unpack_from(f"<{count}I", data, spare * 512)
    pieces = []
    for table, at in enumerate(directory):
        for index, entry in enumerate(struct.unpack_from(f"<{per}I", data, at * 512) if at else ()):
            offset = (table * per + index) * grain * 512
            if entry == 1 and zeroes:
                pieces.append((offset, bytes(grain * 512)))
            elif entry and packed:
                sector, length = struct.unpack_from("<QI", data, entry * 512)
                assert sector * 512 == offset, "marker of another grain"
                pieces.append((offset, zlib.decompress(data[entry * 512 + 12:][:length])))
            elif entry:
                assert (entry + grain) * 512 <= len(data), "grain past the end"
                pieces.append((offset, data[entry * 512:(entry + grain) * 512]))
    return pieces


def se_sparse_pieces(data: bytes) -> list[tuple[int, bytes]]:
    head = struct.unpack_from("<26Q", data)
    assert head[0] == 0xCAFEBABE and head[1] == 0x200000001 and head[3:5] == (8, 64) and not any(head[5:10])
    volatile = struct.unpack_from("<4Q", data, head[10] * 512)
    assert volatile[0] == 0xCAFECAFE
    if volatile[3]:
        raise unsupported("journal to replay")
    pieces = []
    for table in range(-(-head[2] // (8 * 4096))):
        entry = struct.unpack_from("<Q", data, head[16] * 512 + 8 * table)[0]
        if entry:
            assert entry >> 32 == 0x10000000
            at = (head[18] + 64 * (entry & 0xFFFFFFFF)) * 512
            for index, grain in enumerate(struct.unpack_from("<4096Q", data, at)):
                if grain:
                    number = (grain >> 48 & 0xFFF) + ((grain & 0xFFFFFFFFFFFF) << 12)
                    place = (head[24] + 8 * number) * 512
                    zero = {1: True, 2: True, 3: False}[grain >> 60]
                    pieces.append(((table * 4096 + index) * 4096, bytes(4096) if zero else data[place:place + 4096]))
    return pieces


# --- VHD -------------------------------------------------------------------

def vhd_sum(data: bytes, at: int) -> bool:
    return sum(data[:at] + data[at + 4:]) + int.from_bytes(data[at:at + 4], "big") & 0xFFFFFFFF == 0xFFFFFFFF


def vhd_footer(data: bytes) -> bytes:
    for candidate in (data[-512:], data[-511:], data[:512]):
        if candidate[:8] == b"conectix" and vhd_sum(candidate, 64):
            return candidate
    raise corrupt("no whole footer")


def read_vhd(path: Path) -> bytearray:
    data = path.read_bytes()
    foot = vhd_footer(data)
    head_at, size = struct.unpack_from(">Q", foot, 16)[0], struct.unpack_from(">Q", foot, 48)[0]
    kind = int.from_bytes(foot[60:64], "big")
    if foot[28:32] in (b"vpc ", b"qemu"):
        cylinders, heads, track = struct.unpack_from(">HBB", foot, 56)
        size = cylinders * heads * track * 512
    if kind == 2:
        return bytearray(data[:size])
    head = data[head_at:head_at + 1024]
    if head[:8] != b"cxsparse" or not vhd_sum(head, 36):
        raise corrupt("dynamic header")
    bat_at, _, count, block = struct.unpack_from(">QIII", head, 16)
    disk = bytearray(size)
    if kind == 4:
        found = None
        for entry in range(8):
            code, _, length, _, at = struct.unpack_from(">4sIIIQ", head, 576 + 24 * entry)
            if code == b"W2ru":
                found = path.parent / data[at:at + length].decode("utf-16-le").replace("\\", "/")
        if not found or not found.exists():
            raise missing(found)
        assert vhd_footer(found.read_bytes())[68:84] == head[40:56], "UUIDs"
        disk = fit(bytearray(read(found)), size)
    bitmap_size = -(-block // 512 // 8 // 512) * 512
    for number in range(min(count, -(-size // block))):
        place = int.from_bytes(data[bat_at + 4 * number:][:4], "big") * 512
        if place == 0xFFFFFFFF * 512:
            continue
        for sector in range(min(block, size - number * block) // 512):
            if kind == 3 or data[place + sector // 8] >> 7 - sector % 8 & 1:
                at = place + bitmap_size + sector * 512
                disk[number * block + sector * 512:number * block + sector * 512 + 512] = data[at:at + 512]
    return disk


# --- VDI -------------------------------------------------------------------

def read_vdi(path: Path) -> bytearray:
    data = path.read_bytes()
    signature, version, _, kind = struct.unpack_from("<IIII", data, 64)
    assert signature == 0xBEDA107F
    if version != 0x10001:
        raise unsupported(f"version {version:#x}")
    bmap_at, data_at = struct.unpack_from("<II", data, 340)
    size, block, extra, count = struct.unpack_from("<QIII", data, 368)
    disk = bytearray(size)
    if kind == 4:
        others = [other for other in sorted(path.parent.glob("*.vdi")) if other.read_bytes()[392:408] == data[424:440]]
        if not others:
            raise missing("no image with the UUID")
        assert others[0].read_bytes()[408:424] == data[440:456], "modification UUID"
        disk = fit(bytearray(read(others[0])), size)
    for number, entry in enumerate(struct.unpack_from(f"<{count}I", data, bmap_at)):
        start = number * block
        end = min(size, start + block)
        if entry == 0xFFFFFFFE:
            disk[start:end] = bytes(end - start)
        elif entry != 0xFFFFFFFF:
            at = data_at + entry * (block + extra) + extra
            if at + end - start > len(data):
                raise corrupt("block past the end")
            disk[start:end] = data[at:at + end - start]
    return disk


# --- VHDX ------------------------------------------------------------------

def castagnoli(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return ~crc & 0xFFFFFFFF


def sound(data: bytes, magic: bytes) -> bool:
    return data[:4] == magic and castagnoli(data[:4] + bytes(4) + data[8:]) == int.from_bytes(data[4:8], "little")


def replay(data: bytearray, log_at: int, log_size: int, guid: bytes) -> None:
    ring = data[log_at:log_at + log_size]

    def entry_at(at: int) -> tuple[int, int, int, bytes] | None:
        turned = bytes(ring[at:] + ring[:at])
        length, tail, sequence = struct.unpack_from("<IIQ", turned, 8)
        if turned[:4] != b"loge" or turned[32:48] != guid or length > log_size or not sound(turned[:length], b"loge"):
            return None
        return sequence, tail, length, turned[:length]

    best: list[bytes] = []
    newest = -1
    for start in range(0, log_size, 4096):
        run, at, expected = [], start, None
        while (entry := entry_at(at)) and expected in (None, entry[0]):
            run.append(entry[3])
            if entry[1] == start and entry[0] > newest:
                newest, best = entry[0], list(run)
            at, expected = (at + entry[2]) % log_size, entry[0] + 1
    if not best:
        raise corrupt("no valid log entry")
    flushed, last = struct.unpack_from("<QQ", best[-1], 48)
    if flushed > len(data):
        raise corrupt("file is shorter than when its log was written")
    data.extend(bytes(max(0, last - len(data))))
    for whole in best:
        sequence, count = struct.unpack_from("<QI", whole, 16)
        sectors = -(-(64 + 32 * count) // 4096) * 4096
        for index in range(count):
            raw = whole[64 + 32 * index:96 + 32 * index]
            offset, own = struct.unpack_from("<QQ", raw, 16)
            assert own == sequence
            if raw[:4] == b"zero":
                length = struct.unpack_from("<Q", raw, 8)[0]
                data[offset:offset + length] = bytes(length)
            else:
                sector, sectors = whole[sectors:sectors + 4096], sectors + 4096
                assert raw[:4] == b"desc" and sector[:4] == b"data"
                assert sector[4:8] + sector[-4:] == struct.pack("<II", sequence >> 32, sequence & 0xFFFFFFFF)
                data[offset:offset + 4096] = raw[8:16] + sector[8:-4] + raw[4:8]


def vhdx_header(data: bytes) -> bytes:
    heads = [data[at:at + 4096] for at in (0x10000, 0x20000) if sound(data[at:at + 4096], b"head")]
    if not heads:
        raise corrupt("no valid header")
    return max(heads, key=lambda head: int.from_bytes(head[8:16], "little"))


def read_vhdx(path: Path) -> bytearray:
    data = bytearray(path.read_bytes())
    head = vhdx_header(data)
    if any(head[48:64]):
        replay(data, int.from_bytes(head[72:80], "little"), int.from_bytes(head[68:72], "little"), head[48:64])
    tables = [data[at:at + 0x10000] for at in (0x30000, 0x40000) if sound(data[at:at + 0x10000], b"regi")]
    if not tables:
        raise corrupt("no valid region table")
    places = {}
    for index in range(int.from_bytes(tables[0][8:12], "little")):
        raw, at, _, required = struct.unpack_from("<16sQII", tables[0], 16 + 32 * index)
        name = str(uuid.UUID(bytes_le=raw))[:8]
        if name not in ("2dc27766", "8b7ca206") and required & 1:
            raise unsupported("region " + name)
        places[name] = at
    meta, bat = places["8b7ca206"], places["2dc27766"]
    item = {}
    for index in range(struct.unpack_from("<H", data, meta + 10)[0]):
        raw, at, length, flags = struct.unpack_from("<16sIII", data, meta + 32 + 32 * index)
        name = str(uuid.UUID(bytes_le=raw))[:8]
        if name not in ("caa16737", "2fa54224", "beca12ab", "8141bf1d", "cda348c7", "a8d35f2d") and flags & 4:
            raise unsupported("metadata " + name)
        item[name] = data[meta + at:meta + at + length]
    block, flags = struct.unpack("<II", item["caa16737"])
    size, sector = int.from_bytes(item["2fa54224"], "little"), int.from_bytes(item["8141bf1d"], "little")
    disk = bytearray(size)
    if flags & 2:
        pairs = {}
        locator = item["a8d35f2d"]
        for index in range(struct.unpack_from("<H", locator, 18)[0]):
            k, v, kl, vl = struct.unpack_from("<IIHH", locator, 20 + 12 * index)
            pairs[locator[k:k + kl].decode("utf-16-le")] = locator[v:v + vl].decode("utf-16-le")
        disk = fit(parent_of(path, pairs["relative_path"]), size)
        theirs = vhdx_header((path.parent / pairs["relative_path"].replace("\\", "/")).read_bytes())
        assert uuid.UUID(bytes_le=theirs[32:48]) == uuid.UUID(pairs["parent_linkage"]), "linkage"
    ratio = (1 << 23) * sector // block
    for number in range(-(-size // block)):
        chunk = number // ratio
        entry = int.from_bytes(data[bat + 8 * (number + chunk):][:8], "little")
        state, at, start = entry & 7, entry >> 20 << 20, number * block
        end = min(size, start + block)
        if state == 6:
            disk[start:end] = data[at:at + end - start]
        elif state == 7:
            bitmap = int.from_bytes(data[bat + 8 * (chunk * (ratio + 1) + ratio):][:8], "little")
            assert bitmap & 7 == 6
            for offset in range(start, end, sector):
                bit = offset // sector % (1 << 23)
                if data[(bitmap >> 20 << 20) + bit // 8] >> bit % 8 & 1:
                    disk[offset:offset + sector] = data[at + offset - start:at + offset - start + sector]
        elif state in (1, 2, 3):
            disk[start:end] = bytes(end - start)
    return disk


# --- qcow2 -----------------------------------------------------------------

def read_qcow2(path: Path) -> bytearray:
    data = path.read_bytes()
    name_at, name_length, bits, size = struct.unpack_from(">QIIQ", data, 8)
    l1_size, l1_at = struct.unpack_from(">I", data, 36)[0], struct.unpack_from(">Q", data, 40)[0]
    disk = fit(parent_of(path, data[name_at:name_at + name_length].decode()), size)
    cluster = 1 << bits
    for index in range(l1_size):
        l2 = struct.unpack_from(">Q", data, l1_at + 8 * index)[0] & 0x00FFFFFFFFFFFE00
        for slot in range(cluster // 8 if l2 else 0):
            entry = struct.unpack_from(">Q", data, l2 + 8 * slot)[0]
            start = (index * cluster // 8 + slot) * cluster
            at = entry & 0x00FFFFFFFFFFFE00
            assert not entry & 0x4000000000000001, "compressed or zero cluster"
            if at and start < size:
                end = min(size, start + cluster)
                disk[start:end] = data[at:at + end - start].ljust(end - start, b"\0")
    return disk
