"""More hostile images: DMG, Android sparse, sparseimage, ASIF and LUKS: bombs, and fields at their ends."""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import struct
import zlib

import applekit
import relativeskit
from hostilekit import DISK, KIB, MIB, Set, extreme


def make_relatives(out: Set) -> None:
    def add(name: str, format: str, data: bytes, attack: str, length: int = 0) -> None:
        out.add(name, format, bytes(data), "must_not_hang_or_balloon", attack, kind=f"{format}-fields", length=length)

    sectors = MIB // 512
    whole = [applekit.Table("all", 0, applekit.in_chunks("zlib", sectors, 64))]
    image = applekit.dmg(DISK, whole)
    koly = len(image) - 512
    for field, at in {"data-offset": 24, "data-length": 32, "rsrc-offset": 40, "rsrc-length": 48, "xml-offset": 216, "xml-length": 224,
                      "sectors": 492}.items():
        for name, value in extreme(8, len(image)):
            data = bytearray(image)
            struct.pack_into(">Q", data, koly + at, value)
            add(f"dmg-{field}-{name}", "dmg", data, f"{field} is {value:#x}")
    bombs = {"zlib": zlib.compress(bytes(64 * MIB), 9), "bzip2": bz2.compress(bytes(64 * MIB)), "lzma": lzma.compress(bytes(64 * MIB)),
             "lzfse": b"bvxn" + struct.pack("<II", 64 * MIB, 18) + b"\xe1\0\0\1" + b"\xf0\xff" * 3 + b"\x06" + bytes(7) + b"bvx$"}
    for kind, stream in bombs.items():
        table = applekit.Table("all", 0, [(kind, sectors)], {0: stream})
        add(f"dmg-bomb-{kind}", "dmg", applekit.dmg(DISK, [table]), f"a chunk that inflates to 64 MiB ({kind})")
    tiny = [applekit.Table("all", 0, [("ignore", 1)] * 100_000)]
    add("dmg-chunks", "dmg", applekit.dmg(bytes(512) * 100_000, tiny), "100,000 chunks")
    wide = applekit.dmg(b"", [applekit.Table("all", 0, [("zlib", 1 << 40)])], sectors=1 << 40)
    add("dmg-wide", "dmg", wide, "a chunk of 512 TiB")
    laughs = b"<!DOCTYPE plist [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>"
    text = image.replace(b"<!DOCTYPE plist PUBLIC", laughs + b"<!DOCTYPE plist PUBLIC")
    struct.pack_into(">Q", text, len(text) - 512 + 224, struct.unpack_from(">Q", image, koly + 224)[0] + len(laughs))
    add("dmg-entities", "dmg", text, "a property list with entities")
    simg = relativeskit.simg(DISK, [("raw", 256)])
    for field, (at, width) in {"file-header": (8, 2), "chunk-header": (10, 2), "block": (12, 4), "blocks": (16, 4), "chunks": (20, 4),
                               "chunk-size": (32, 4), "total-size": (36, 4)}.items():
        for name, value in extreme(width, len(simg)):
            data = bytearray(simg)
            struct.pack_into({2: "<H", 4: "<I"}[width], data, at, value)
            add(f"simg-{field}-{name}", "android-sparse", data, f"{field} is {value:#x}")
    fills = struct.pack("<IHHHHIIII", 0xED26FF3A, 1, 0, 28, 12, 4096, 0xFFFFFFFF, 1, 0) + struct.pack("<HHIII", 0xCAC2, 0, 0xFFFFFFFF, 16, 7)
    add("simg-fill", "android-sparse", fills, "16 TiB of a pattern")
    many = relativeskit.simg(bytes(4096) * 200_000, [("skip", 1)] * 200_000)
    add("simg-chunks", "android-sparse", many, "200,000 chunks")
    sparse = applekit.sparseimage(DISK, band=16)
    for field, (at, width) in {"band": (8, 4), "sectors": (16, 4), "next": (20, 8), "sectors-64": (28, 8), "first": (64, 4)}.items():
        for name, value in extreme(width, len(sparse)):
            data = bytearray(sparse)
            struct.pack_into({4: ">I", 8: ">Q"}[width], data, at, value)
            add(f"sparseimage-{field}-{name}", "sparseimage", data, f"{field} is {value:#x}")
    asif = applekit.asif(DISK, chunk=128 * KIB, partial=[0])
    for field, (at, width) in {"directory": (16, 8), "sectors": (48, 8), "max": (56, 8), "chunk": (64, 4), "sector": (68, 2),
                               "entry": (64 * KIB + 8, 8), "table": (128 * KIB, 8), "bitmap": (128 * KIB + 2048 * 8, 8)}.items():
        for name, value in extreme(width, len(asif)):
            data = bytearray(asif)
            struct.pack_into({2: ">H", 4: ">I", 8: ">Q"}[width], data, at, value)
            add(f"asif-{field}-{name}", "asif", data, f"{field} is {value:#x}")


def luks1(*, cipher: bytes = b"aes", mode: bytes = b"xts-plain64", payload: int = 4096, keys: int = 64, uuid: bytes = b"0" * 36,
          slot: tuple[int, int, int, int] = (0x00AC71F3, 1000, 8, 4000)) -> bytearray:
    """A header of LUKS1 On-Disk Format Specification 1.2.3, table 2, and its key slots (table 3)."""
    data = bytearray(struct.pack(">6sH32s32s32sII20s32sI40s", b"LUKS\xba\xbe", 1, cipher, mode, b"sha256", payload, keys, bytes(20),
                                 bytes(32), 1000, uuid))
    active, rounds, at, stripes = slot
    data += struct.pack(">II32sII", active, rounds, bytes(32), at, stripes)
    data += struct.pack(">II32sII", 0x0000DEAD, 0, bytes(32), 512, 4000) * 7
    return data.ljust(payload * 512 + MIB if payload < 10_000 else MIB, b"\0")


def luks2(text: bytes, *, size: int = 16 * KIB, label: bytes = b"", stored: int | None = None, sound: bool = True) -> bytearray:
    """Both headers of the LUKS2 On-Disk Format Specification 1.1.1, section 2.1, and their JSON."""
    out = bytearray()
    for magic, at in ((b"LUKS\xba\xbe", 0), (b"SKUL\xba\xbe", size)):
        header = bytearray(struct.pack(">6sHQQ48s32s64s40s48sQ", magic, 2, size if stored is None else stored, 1, label, b"sha256",
                                       bytes(64), b"0" * 36, b"", at).ljust(4096, b"\0"))
        area = text[:size - 4096].ljust(size - 4096, b"\0")
        digest = hashlib.sha256(bytes(header) + area).digest()
        header[448:480] = digest if sound else bytes(32)
        out += header + area
    return out.ljust(2 * MIB, b"\0")


def make_luks(out: Set) -> None:
    def add(name: str, data: bytes, attack: str) -> None:
        out.add(f"luks-{name}", "luks", bytes(data), "must_reject_open", attack, kind="luks-fields", forced=False)

    for name, value in extreme(4, MIB):
        add(f"payload-{name}", luks1()[:104] + struct.pack(">I", value) + luks1()[108:], f"the payload starts at sector {value:#x}")
        add(f"keys-{name}", luks1(keys=value), f"a key of {value:#x} bytes")
        add(f"slot-{name}", luks1(slot=(0x00AC71F3, value, value, value)), f"a key slot of {value:#x} stripes at {value:#x}")
    add("slot-state", luks1(slot=(7, 1, 8, 4000)), "a key slot that is neither in use nor free")
    escape = b"\x1b]0;owned\x07\x1b[2J"
    add("cipher-escape", luks1(cipher=escape, mode=escape, uuid=escape), "control characters in the names of the cipher")
    add("cipher-full", luks1(cipher=b"x" * 32, mode=b"y" * 32), "names of 32 bytes without a NUL")
    add("cut", luks1()[:500], "the header is cut off")
    add("version-3", b"LUKS\xba\xbe\0\3" + bytes(luks1()[8:]), "version 3")

    segment = {"type": "crypt", "offset": "1048576", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64", "sector_size": 512}
    slot = {"type": "luks2", "key_size": 64, "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64",
                                                     "key_size": 64}, "kdf": {"type": "argon2id", "time": 4, "memory": 65536, "cpus": 1}}
    whole = {"keyslots": {"0": slot}, "tokens": {}, "segments": {"0": segment}, "digests": {}, "config": {"json_size": "12288"}}

    def changed(**more: object) -> bytes:
        return json.dumps({**whole, **more}).encode()

    add("2-plain", luks2(changed()), "nothing, but it is encrypted")
    for name, value in extreme(8, 2 * MIB):
        add(f"2-size-{name}", luks2(changed(), stored=value), f"a header of {value:#x} bytes")
        add(f"2-offset-{name}", luks2(changed(segments={"0": {**segment, "offset": str(value), "size": str(value)}})),
            f"a segment at {value:#x}")
    add("2-sum", luks2(changed(), sound=False), "the checksums of both headers are wrong")
    texts = {"empty": b"", "deep": b"[" * 12_000, "deep-objects": b'{"a":' * 2400, "text": b"not JSON", "number": b"1e999999",
             "segments": changed(segments=[]), "strings": changed(segments={"0": "x"}), "none": changed(segments={}),
             "negative": changed(segments={"0": {**segment, "offset": "-1"}}), "utf-16": changed().decode().encode("utf-16"),
             "escape": changed(segments={"0": {**segment, "encryption": "\x1b[2J\x9b31m\u202e"}}), "surrogate": b'{"segments":{"\\ud800":{}}}',
             "slots": changed(keyslots={str(number): {"type": "luks2"} for number in range(400)})}
    for name, text in texts.items():
        add(f"2-json-{name}", luks2(text), f"a JSON area that is {name}")
    add("2-label", luks2(changed(), label=escape), "control characters in the label")


MAKERS = (make_relatives, make_luks)
