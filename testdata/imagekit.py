"""Helpers for make.py: the guest model, the image builder and the qcow2 header editor.

Every write that goes to an image through qemu-io is mirrored into a `Guest`, so
the content an image must show is known without asking qemu; qemu is then asked
as a second opinion.
"""

from __future__ import annotations

import hashlib
import random
import resource
import shlex
import struct
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterable

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


# --- qcow2 header ----------------------------------------------------------

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


# --- builder ---------------------------------------------------------------

class Factory:
    """Holds the staging folder and the manifest entries made so far."""

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self.images: dict[str, Image] = {}
        first_line = run(stage, ["qemu-img", "--version"]).splitlines()[0]
        self.qemu = "qemu-img " + first_line.split()[2]

    def image(self, file: str, size: int, *features: str, **more: Any) -> "Image":
        image = Image(self, file, size, list(features), **more)
        self.images[file] = image
        return image


def run(cwd: Path, argv: list[str], ok: tuple[int, ...] = (0,)) -> str:
    """Run a tool quietly; fail loudly with its output. Core dumps are off."""
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    if done.returncode not in ok or "failed:" in done.stdout + done.stderr:
        raise SystemExit(f"{argv} -> {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Image:
    """One test image: makes the file, mirrors the content, checks it, describes it."""

    SECRET = ["--object", "secret,id=key0,data=test-only"]

    def __init__(self, factory: Factory, file: str, size: int, features: list[str], *,
                 format: str = "qcow2", expect: str = "ok", qemu: str = "ok", plain: bool = False,
                 comment: str = "", check: tuple[int, ...] = (0,)) -> None:
        self.factory, self.file, self.features = factory, file, features
        self.format, self.expect, self.qemu, self.comment = format, expect, qemu, comment
        self.check, self.plain = check, plain
        self.path = factory.stage / file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.guest = Guest(size)
        self.rng = rng_for(file)
        self.made_by = factory.qemu
        self.commands: list[str] = []
        self.parents: list[str] = []
        self.snapshots: list[tuple[str, Guest]] = []
        self.samples: list[tuple[int, int]] = []
        self.encrypted = False
        self._io: list[str] = []
        self._payload: dict[str, bytes] = {}

    # Making

    def tool(self, *argv: str, ok: tuple[int, ...] = (0,)) -> "Image":
        """Run a tool in the image's folder and note the command."""
        self.commands.append(shlex.join(argv))
        run(self.path.parent, list(argv), ok)
        return self

    def create(self, options: str = "", base: str = "", base_format: str = "") -> "Image":
        """`qemu-img create`; `base` is the backing name as written into the image."""
        argv = ["qemu-img", "create", "-q", "-f", self.format]
        self.encrypted = "encrypt." in options
        argv += self.SECRET if self.encrypted else []
        argv += ["-o", options] if options else []
        if base:
            argv += ["-b", base, "-F", base_format]
            folder = (self.path.parent / base).resolve().relative_to(self.factory.stage.resolve())
            parent = self.factory.images[str(folder)]
            self.needs(parent)
            self.guest = parent.guest.resized(self.guest.size)
        return self.tool(*argv, self.path.name, str(self.guest.size))

    def convert(self, guest: Guest, options: str = "", *flags: str) -> "Image":
        """Make the image from `guest` with `qemu-img convert`."""
        self.guest = guest
        guest.save(self.path.parent / "guest.raw")
        option = ["-o", options] if options else []
        self.tool("qemu-img", "convert", "-f", "raw", "-O", self.format, *flags, *option, "guest.raw", self.path.name)
        (self.path.parent / "guest.raw").unlink()
        return self

    def needs(self, parent: "Image") -> None:
        self.parents += [parent.file, *parent.parents]
        self.expect = "ok-with-external"

    def write(self, *writes: tuple[int, bytes], flags: str = "") -> "Image":
        for offset, data in writes:
            self.guest.write(offset, data)
            name = f"data{len(self._io)}.bin"
            self._payload[name] = data
            self._io.append(" ".join(["write", *flags.split(), "-s", name, str(offset), str(len(data))]))
        return self

    def scatter(self, cluster: int = 64 * KIB, count: int = 6) -> "Image":
        return self.write(*scatter(self.rng, self.guest.size, cluster, count))

    def zero(self, offset: int, length: int, how: str = "write -z") -> "Image":
        """Zero a range; `how` is 'write -z', 'write -z -u' or 'discard'."""
        for start in range(offset, offset + length, MIB):
            self.guest.write(start, bytes(min(MIB, offset + length - start)))
        self._io.append(f"{how} {offset} {length}")
        return self

    def io(self, *commands: str, ok: tuple[int, ...] = (0,)) -> "Image":
        """Send the queued requests (and `commands`) to the image in one qemu-io run."""
        queue, self._io = [*self._io, *commands], []
        payload, self._payload = self._payload, {}
        if queue:
            for name, data in payload.items():
                (self.path.parent / name).write_bytes(data)
            target = ["-f", self.format, "-d", "unmap", self.path.name]
            if self.encrypted:
                target = [*self.SECRET, "--image-opts", self._options()]
            self.tool("qemu-io", *[word for command in queue for word in ("-c", command)], *target, ok=ok)
            for name in payload:
                (self.path.parent / name).unlink()
        return self

    def snapshot(self, name: str) -> "Image":
        self.io().tool("qemu-img", "snapshot", "-c", name, self.path.name)
        self.snapshots.append((name, self.guest.resized(self.guest.size)))
        return self

    def resize(self, size: int) -> "Image":
        self.io().tool("qemu-img", "resize", "-q", "-f", self.format, self.path.name, str(size))
        self.guest = self.guest.resized(size)
        return self

    def patch(self, what: str, change: Callable[[Qcow2Header], object]) -> "Image":
        """Edit the qcow2 header by hand; `what` says so in the manifest."""
        self.io()
        header = Qcow2Header(self.path)
        change(header)
        header.save()
        self.commands.append(f"[patched: {what}]")
        return self

    def patch_size(self, size: int) -> "Image":
        self.patch(f"header size field set to {size}", lambda h: h.put(24, "Q", size))
        self.guest = self.guest.resized(size)
        return self

    def save_raw(self, note: str) -> "Image":
        """Write a raw image straight from the model."""
        self.guest.save(self.path)
        self.made_by, self.commands = "make.py", [f"[{note}]"]
        return self

    # Checking

    def _options(self) -> str:
        secret = ",encrypt.key-secret=key0" if self.encrypted else ""
        return f"driver={self.format}{secret},file.driver=file,file.filename={self.path.name}"

    def _ask_qemu(self, source: list[str]) -> Path:
        out = self.factory.stage / "asked.raw"
        secret = self.SECRET if self.encrypted else []
        run(self.path.parent, ["qemu-img", "convert", *secret, *source, "-O", "raw", str(out)])
        return out

    def _same(self, out: Path, guest: Guest, what: str) -> None:
        """Compare qemu's raw copy with the model over their common length."""
        size = out.stat().st_size
        common = min(size, guest.size)
        if size != guest.size and (self.qemu != "rounds-size" or abs(size - guest.size) >= 512):
            raise SystemExit(f"{self.file} {what}: qemu says {size} bytes, the model {guest.size}")
        with out.open("rb") as copy:
            for chunk in guest.resized(common).chunks():
                if copy.read(len(chunk)) != chunk:
                    raise SystemExit(f"{self.file} {what}: qemu disagrees before {copy.tell()}")
        out.unlink()

    def verify(self) -> None:
        """Ask qemu for the active content, each snapshot and each sample."""
        self.io()
        if self.snapshots:
            fix_snapshot_dates(self.path)
        if self.qemu == "refuses":
            try:
                self._ask_qemu(["-f", self.format, self.path.name])
            except SystemExit:
                return
            raise SystemExit(f"{self.file}: qemu was to refuse it")
        if self.format == "qcow2" and not self.encrypted:
            run(self.path.parent, ["qemu-img", "check", "-q", "-f", "qcow2", self.path.name], self.check)
        if not self.samples:
            self._same(self._ask_qemu(["--image-opts", self._options()]), self.guest, "active")
        for offset, length in self.samples:
            part = (f"driver=raw,offset={offset},size={length},file.driver=qcow2,"
                    f"file.file.driver=file,file.file.filename={self.path.name}")
            self._same(self._ask_qemu(["--image-opts", part]), Guest.of(self.guest.read(offset, length)), f"at {offset}")
        for name, guest in self.snapshots:
            out = self._ask_qemu(["-f", "qcow2", "-l", f"snapshot.name={name}", self.path.name])
            with out.open("r+b") as copy:  # qemu shows an older, shorter snapshot at today's length
                copy.seek(guest.size)
                assert not any(copy.read()), "data after the snapshot's end"
                copy.truncate(guest.size)
            self._same(out, guest, f"snapshot {name}")

    @property
    def stored(self) -> str:
        return self.file if self.plain else self.file + ".zst"

    def entry(self) -> dict[str, object]:
        readable = self.expect.startswith("ok") and not self.samples
        return {
            "file": self.file,
            "stored": self.stored,
            "format": self.format,
            "features": self.features,
            "made_by": self.made_by,
            "command": " ; ".join(self.commands),
            "virtual_size": self.guest.size,
            "guest_sha256": self.guest.sha256() if readable else None,
            "parents": self.parents,
            "snapshots": [
                {"id": str(number), "name": name, "virtual_size": guest.size, "guest_sha256": guest.sha256()}
                for number, (name, guest) in enumerate(self.snapshots, 1)
            ],
            "samples": [
                {"offset": offset, "length": length,
                 "sha256": hashlib.sha256(self.guest.read(offset, length)).hexdigest()}
                for offset, length in self.samples
            ],
            "expect": self.expect,
            "qemu": self.qemu,
            "comment": self.comment,
        }
