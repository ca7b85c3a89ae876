"""Helpers for make.py: the image builder.

Every write that goes to an image through qemu-io is mirrored into a `Guest`, so
the content an image must show is known without asking qemu; qemu is then asked
as a second opinion. VMDK, VHD, VHDX and VDI images are also read by readback.py
and by 7z, since qemu does not know all of their kinds.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shlex
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterable

import readback
from guest import KIB, MIB, Guest, rng_for, scatter
from qcow2kit import Qcow2Header, fix_snapshot_dates


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
        argv, cwd=cwd, capture_output=True, text=True, errors="replace",
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
                 comment: str = "", check: tuple[int, ...] = (0,), seven: bool = True, stored: str = "",
                 slack: int = 512) -> None:
        self.factory, self.file, self.features = factory, file, features
        self.format, self.expect, self.qemu, self.comment = format, expect, qemu, comment
        self.check, self.plain, self.seven, self.slack = check, plain, seven, slack
        self.stored = file if plain else (stored or file) + ".zst"
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

    def needs(self, *parents: "Image") -> "Image":
        for parent in parents:
            self.parents += [file for file in [parent.file, *parent.parents] if file not in self.parents]
        if self.expect.startswith("ok"):
            self.expect = "ok-with-external"
        return self

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

    def hand(self, data: bytes, note: str) -> "Image":
        """Write the image's bytes, made by hand; `note` says how in the manifest."""
        self.path.write_bytes(data)
        self.made_by = "make.py"
        self.commands.append(f"[{note}]")
        return self

    def edit(self, what: str, change: Callable[[bytearray], object]) -> "Image":
        """Change the image's bytes; `what` says so in the manifest."""
        data = bytearray(self.io().path.read_bytes())
        change(data)
        self.path.write_bytes(data)
        self.commands.append(f"[patched: {what}]")
        return self

    def part(self, file: str, data: bytes | None = None, note: str = "", **more: Any) -> "Image":
        """Another file that this image needs, seen as a raw image; `data` is its content, if not there yet."""
        image = self.factory.image(file, 0, "extent", format="raw", comment=f"extent of {self.path.name}, seen as a raw image",
                                   **more)
        if data is None:
            image.made_by, image.commands = self.made_by, [f"[made along with {self.path.name}]"]
        else:
            image.hand(data, note)
        image.guest = Guest.of(image.path.read_bytes())
        if image.guest.size % 512:
            image.qemu = "rounds-size"
        self.needs(image)
        return image

    def take_size(self) -> "Image":
        """Take over the size that qemu gave the disk, which may be larger than asked for."""
        text = run(self.path.parent, ["qemu-img", "info", "--output=json", "-f", self.format, self.path.name])
        size = json.loads(text)["virtual-size"]
        assert self.guest.size <= size < self.guest.size + MIB
        self.guest = self.guest.resized(size)
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
        if size != guest.size and (self.qemu != "rounds-size" or abs(size - guest.size) >= self.slack):
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
        self._verify_without_qemu()
        if self.qemu == "wrong" or self.qemu == "ok" and self.expect.startswith("refuse") and not self.encrypted:
            self._verify_wrong()
            return
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
            part = (f"driver=raw,offset={offset},size={length},file.driver={self.format},"
                    f"file.file.driver=file,file.file.filename={self.path.name}")
            self._same(self._ask_qemu(["--image-opts", part]), Guest.of(self.guest.read(offset, length)), f"at {offset}")
        for name, guest in self.snapshots:
            out = self._ask_qemu(["-f", "qcow2", "-l", f"snapshot.name={name}", self.path.name])
            with out.open("r+b") as copy:  # qemu shows an older, shorter snapshot at today's length
                copy.seek(guest.size)
                assert not any(copy.read()), "data after the snapshot's end"
                copy.truncate(guest.size)
            self._same(out, guest, f"snapshot {name}")

    def _verify_without_qemu(self) -> None:
        """Read the image with readback.py and, unless told not to, with 7z."""
        kind = {"vmdk": "vmdk", "vpc": "vhd", "vhdx": "vhdx", "vdi": "vdi"}.get(self.format)
        if kind is None and not self.file.startswith("mixed/"):
            return
        if self.expect.startswith("refuse"):
            try:
                readback.read(self.path)
            except readback.Refused as refused:
                if refused.why != self.expect:
                    raise SystemExit(f"{self.file}: {self.expect}, but readback.py says {refused.why}: {refused}")
                return
            raise SystemExit(f"{self.file}: readback.py reads it")
        if self.samples:
            return
        want = b"".join(self.guest.chunks())
        got = readback.read(self.path)
        if got != want:
            first = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), -1)
            raise SystemExit(f"{self.file}: readback.py disagrees at {first}, lengths {len(got)} and {len(want)}")
        if kind is not None:
            done = subprocess.run(["7z", "x", "-so", "-t" + kind, self.path.name], cwd=self.path.parent, capture_output=True)
            if (done.stdout == want) != self.seven:
                raise SystemExit(f"{self.file}: 7z was {'' if self.seven else 'not '}to read it\n{done.stderr.decode()}")

    def _verify_wrong(self) -> None:
        """See to it that qemu reads the image, and if the content is known, that it reads another one."""
        out = self._ask_qemu(["-f", self.format, self.path.name])
        if self.expect.startswith("ok") and out.read_bytes() == b"".join(self.guest.chunks()):
            raise SystemExit(f"{self.file}: qemu was to read it wrongly, but is right")
        out.unlink()

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
