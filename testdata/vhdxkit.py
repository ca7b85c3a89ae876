"""Writing VHDX files by hand, after [MS-VHDX]."""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Callable, Iterable

if TYPE_CHECKING:
    from imagekit import Image

KIB, MIB = 1 << 10, 1 << 20
HEADERS, REGION_TABLES = (64 * KIB, 128 * KIB), (192 * KIB, 256 * KIB)
LOG_AT, META_AT, BAT_AT, DATA_AT = MIB, 2 * MIB, 3 * MIB, 4 * MIB
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7


def guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


def guid_of(name: str) -> bytes:
    """A GUID that depends on `name` only."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, "diskimage/" + name).bytes_le


BAT, METADATA = guid("2dc27766-f623-4200-9d64-115e9bfd4a08"), guid("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS, DISK_SIZE = guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b"), guid("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID, LOGICAL = guid("beca12ab-b2e6-4523-93ef-c309e000c746"), guid("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL, LOCATOR = guid("cda348c7-445d-4471-9cc9-e9885251c556"), guid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
LOCATOR_VHDX = guid("b04aefb7-d19e-4a81-b789-25b8e9445913")

TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    TABLE.append(_byte)


def crc32c(data: bytes | bytearray) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def sealed(data: bytes | bytearray) -> bytes:
    """`data` with its checksum put into bytes 4 to 7."""
    data = bytearray(data)
    data[4:8] = bytes(4)
    struct.pack_into("<I", data, 4, crc32c(data))
    return bytes(data)


def header(sequence: int, name: str, *, log: bytes = bytes(16), log_size: int = MIB, data_write: str = "") -> bytes:
    return sealed(struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, sequence, guid_of(f"{name}/file{sequence}"),
                              guid_of(data_write or name + "/data"), log, 0, 1, log_size, LOG_AT).ljust(4096, b"\0"))


def region_table(entries: Iterable[tuple[bytes, int, int, int]]) -> bytes:
    entries = list(entries)
    data = struct.pack("<4sIII", b"regi", 0, len(entries), 0)
    return sealed((data + b"".join(struct.pack("<16sQII", *entry) for entry in entries)).ljust(64 * KIB, b"\0"))


def metadata(items: Iterable[tuple[bytes, int, bytes]]) -> bytes:
    """The metadata region; each item is its GUID, flags (1 user, 2 virtual disk, 4 required) and content."""
    items = list(items)
    table, body = struct.pack("<8sHH20x", b"metadata", 0, len(items)), b""
    for name, flags, content in items:
        table += struct.pack("<16sIIII", name, 64 * KIB + len(body), len(content), flags, 0)
        body += content.ljust(-(-len(content) // 8) * 8, b"\0")
    return (table.ljust(64 * KIB, b"\0") + body).ljust(MIB, b"\0")


def locator(values: dict[str, str]) -> bytes:
    at, table, body = 20 + 12 * len(values), b"", b""
    for key, value in values.items():
        k, v = key.encode("utf-16-le"), value.encode("utf-16-le")
        table += struct.pack("<IIHH", at + len(body), at + len(body) + len(k), len(k), len(v))
        body += k + v
    return LOCATOR_VHDX + struct.pack("<HH", 0, len(values)) + table + body


class Vhdx:
    """The parts of an image; change them before `build`."""

    def __init__(self, name: str, size: int, *, block: int = MIB, logical: int = 512, parent: "Vhdx | None" = None,
                 relative: str = "", fixed: bool = False) -> None:
        self.name, self.size, self.block, self.logical, self.parent = name, size, block, logical, parent
        self.ratio = (1 << 23) * logical // block
        count = -(-size // block)
        chunks = -(-count // self.ratio)
        self.bat = [0] * (chunks * (self.ratio + 1) if parent else count + (count - 1) // self.ratio)
        self.bat_size = -(-len(self.bat) * 8 // MIB) * MIB
        self.data = bytearray()
        self.data_at = BAT_AT + self.bat_size
        self.bitmaps: dict[int, int] = {}
        self.sequences, self.log_guid, self.log = (6, 7), bytes(16), b""
        self.items = [
            (FILE_PARAMETERS, 4, struct.pack("<II", block, (2 if parent else 0) | (1 if fixed else 0))),
            (DISK_SIZE, 6, struct.pack("<Q", size)), (DISK_ID, 6, guid_of(name + "/disk")),
            (LOGICAL, 6, struct.pack("<I", logical)), (PHYSICAL, 6, struct.pack("<I", 4096)),
        ]
        if parent:
            linkage = "{" + str(uuid.UUID(bytes_le=guid_of(parent.name + "/data"))) + "}"
            self.items.append((LOCATOR, 4, locator({
                "parent_linkage": linkage, "relative_path": relative,
                "absolute_win32_path": "C:\\vm\\" + relative.rsplit("\\", 1)[-1]})))
        self.regions = [(BAT, BAT_AT, self.bat_size, 1), (METADATA, META_AT, MIB, 1)]

    def index(self, block: int) -> int:
        return block + block // self.ratio

    def place(self, data: bytes, unit: int) -> int:
        """Put a block at the end of the file; returns its offset in MiB."""
        at = self.data_at + len(self.data)
        self.data += data.ljust(unit, b"\0")
        return at // MIB

    def put(self, block: int, data: bytes, state: int = FULL) -> "Vhdx":
        self.bat[self.index(block)] = self.place(data, self.block) << 20 | state
        return self

    def mark(self, block: int, state: int, offset: int = 0) -> "Vhdx":
        self.bat[self.index(block)] = offset << 20 | state
        return self

    def put_partial(self, block: int, data: bytes, own: Callable[[int], bool]) -> "Vhdx":
        """Store those sectors of the block for which `own` (of the sector's number in the block) holds."""
        chunk = block // self.ratio
        if chunk not in self.bitmaps:
            self.bitmaps[chunk] = len(self.data)
            self.bat[chunk * (self.ratio + 1) + self.ratio] = self.place(b"", MIB) << 20 | 6
        sectors = self.block // self.logical
        mixed = bytearray(b"\xdd" * self.block)
        for sector in range(sectors):
            if own(sector):
                at = sector * self.logical
                mixed[at:at + self.logical] = data[at:at + self.logical].ljust(self.logical, b"\0")
                bit = block % self.ratio * sectors + sector
                self.data[self.bitmaps[chunk] + bit // 8] |= 1 << bit % 8
        return self.put(block, bytes(mixed), PARTIAL)

    def bat_bytes(self) -> bytes:
        return struct.pack(f"<{len(self.bat)}Q", *self.bat).ljust(self.bat_size, b"\0")

    def build(self) -> bytearray:
        out = bytearray(self.data_at)
        creator = "diskimage test data".encode("utf-16-le")
        out[:8 + len(creator)] = b"vhdxfile" + creator
        for at, sequence in zip(HEADERS, self.sequences):
            out[at:at + 4096] = header(sequence, self.name, log=self.log_guid)
        for at in REGION_TABLES:
            out[at:at + 64 * KIB] = region_table(self.regions)
        out[LOG_AT:LOG_AT + len(self.log)] = self.log
        out[META_AT:META_AT + MIB] = metadata(self.items)
        out[BAT_AT:BAT_AT + self.bat_size] = self.bat_bytes()
        return out + self.data


class Log:
    """A 1 MiB log ring; entries follow each other from `start`, and wrap around."""

    def __init__(self, name: str, start: int = 0, sequence: int = 1, file_size: int = 0) -> None:
        self.guid, self.ring = guid_of(name + "/log"), bytearray(MIB)
        self.tail, self.at, self.sequence, self.file_size = start, start, sequence, file_size

    def entry(self, *writes: tuple[int, bytes | int], spoil: bool = False, last: int = 0) -> "Log":
        """Each write is a file offset and either 4 KiB of data or a length to zero."""
        heads = -(-(64 + 32 * len(writes)) // 4096) * 4096
        descriptors, sectors = b"", b""
        for offset, what in writes:
            if isinstance(what, int):
                descriptors += struct.pack("<4sIQQQ", b"zero", 0, what, offset, self.sequence)
            else:
                assert len(what) == 4096
                descriptors += struct.pack("<4s4s8sQQ", b"desc", what[-4:], what[:8], offset, self.sequence)
                sectors += struct.pack("<4sI4084sI", b"data", self.sequence >> 32, what[8:-4], self.sequence & 0xFFFFFFFF)
        length = heads + len(sectors)
        head = struct.pack("<4sIIIQII16sQQ", b"loge", 0, length, self.tail, self.sequence, len(writes), 0, self.guid,
                           self.file_size, last or self.file_size)
        whole = bytearray(sealed((head + descriptors).ljust(heads, b"\0") + sectors))
        if spoil:
            whole[-100] ^= 0x10
        for at in range(0, len(whole), 4096):
            self.ring[self.at:self.at + 4096] = whole[at:at + 4096]
            self.at = (self.at + 4096) % MIB
        self.sequence += 1
        return self

    def into(self, vhdx: Vhdx) -> Vhdx:
        vhdx.log_guid, vhdx.log = self.guid, bytes(self.ring)
        return vhdx


def fix_vhdx(image: "Image") -> None:
    """Replace the random GUIDs and sequence numbers, clear the played log, and refix the checksums."""
    def change(data: bytearray) -> None:
        older = min(struct.unpack_from("<Q", data, at + 8)[0] for at in HEADERS)
        for at in HEADERS:
            sequence, log, size, log_at = struct.unpack_from("<Q32x16s4xIQ", data, at + 8)
            assert data[at:at + 4] == b"head" and not any(log)
            struct.pack_into("<Q", data, at + 8, sequence - older + 1)
            data[at + 16:at + 48] = guid_of(image.file + "/file") + guid_of(image.file + "/data")
            data[at:at + 4096] = sealed(data[at:at + 4096])
            data[log_at:log_at + size] = bytes(size)
        table = REGION_TABLES[0]
        count = struct.unpack_from("<I", data, table + 8)[0]
        for entry in range(count):
            kind, region = struct.unpack_from("<16sQ", data, table + 16 + 32 * entry)
            if kind == METADATA:
                items = struct.unpack_from("<H", data, region + 10)[0]
                for item in range(items):
                    name, offset = struct.unpack_from("<16sI", data, region + 32 + 32 * item)
                    if name == DISK_ID:
                        data[region + offset:region + offset + 16] = guid_of(image.file + "/disk")
    image.edit("GUIDs, header sequence numbers, log cleared, checksums", change)
