"""The VDI images."""

from __future__ import annotations

import struct
from typing import Any

import vdikit
from guest import KIB, MIB, Guest, content, rng_for, text
from imagekit import Factory, Image
from vdikit import fix_vdi


def vdi(make: Factory, name: str, guest: Guest, *features: str, **more: Any) -> Image:
    image = make.image(f"vdi/{name}.vdi", guest.size, *features, format="vdi", **more)
    image.guest = guest
    return image


def flat(guest: Guest) -> bytes:
    return b"".join(guest.chunks())


def by_qemu(make: Factory) -> None:
    for name, options, size in (("dynamic", "", 5 * MIB), ("static", "static=on", 3 * MIB), ("odd", "", 2 * MIB + 1536),
                                ("static-odd", "static=on", 1_000_448)):
        image = make.image(f"vdi/qemu-{name}.vdi", size, "static" if options else "dynamic", format="vdi")
        image.create(options).scatter(MIB)
        if size == 5 * MIB:
            image.write((2 * MIB + 512, text(image.rng, 5_000)))
        fix_vdi(image)


def by_hand(make: Factory) -> None:
    def one(name: str, guest: Guest, comment: str, *features: str, expect: str = "ok", qemu: str = "ok", seven: bool = True,
            **layout: Any) -> Image:
        image = vdi(make, name, guest, *features, comment=comment, expect=expect, qemu=qemu, seven=seven)
        return image.hand(vdikit.image(flat(guest), image.path.name, **layout), "written by hand")

    guest = Guest(6 * MIB)
    for at in (0, 2 * MIB - 700, 5 * MIB + 1234):
        guest.write(at, text(rng_for(f"vdi/{at}"), 9_000))
    one("oracle", guest, "as VirtualBox writes it; blocks are stored backwards", "dynamic", backwards=True,
        note="a test image")
    one("innotek", guest, "an old header text, tables at sector borders", "dynamic", align=512,
        text="<<< innotek VirtualBox Disk Image >>>\n")
    one("sun", guest, "header text of Sun's time", "static", kind=vdikit.STATIC, text="<<< Sun xVM VirtualBox Disk Image >>>\n")
    one("clone", guest, "a header text that no program is known to write", "dynamic", text="<<< CloneVDI VirtualBox Disk >>>\n")
    one("block-64k", guest, "blocks of 64 KiB", "dynamic", "block=64k", qemu="refuses", seven=False, block=64 * KIB)
    one("block-4m", guest, "blocks of 4 MiB, the last one cut short by the disk's end", "dynamic", "block=4m", qemu="refuses",
        seven=False, block=4 * MIB)
    one("block-extra", guest, "512 bytes precede each block; qemu takes them for the block's start", "dynamic", "block-extra",
        qemu="wrong", seven=False, extra=512)
    one("discarded", guest, "some blocks are marked as discarded (0xfffffffe)", "dynamic", "discarded", discarded=[3, 4])
    last = Guest.of(flat(guest)[:5 * MIB + 1_001] + b"the end")
    one("odd-bytes", last, "the size is no multiple of 512", "dynamic", "odd-size", qemu="rounds-size")
    image = one("cut", guest, "the block that is stored last, the disk's first one, is cut off; qemu reads zeros", "damaged",
                expect="refuse-corrupt", qemu="wrong", backwards=True)
    image.edit("last 1 MiB cut off", lambda data: data.__delitem__(slice(-MIB, None)))
    image = one("version-2", guest, "version 2.0 is unknown", "dynamic", expect="refuse-unsupported", qemu="refuses")
    image.edit("version field", lambda data: struct.pack_into("<I", data, 68, 0x20000))


def differencing(make: Factory) -> None:
    def child(name: str, over: Image, *features: str, gone: bool = False, discarded: int = -1, comment: str, **more: Any) -> Image:
        image = vdi(make, name, over.guest.resized(over.guest.size), "differencing", "parent-by-uuid", *features,
                    comment=comment, qemu="refuses", seven=False, **more)
        rng = rng_for(image.file)
        own = {0, 1, image.guest.size // MIB - 1}
        for block in own:
            image.guest.write(block * MIB + 3_000, text(rng, 12_000))
        image.guest.write(MIB - 5_000, bytes(3_000))
        if discarded >= 0:
            image.guest.write(discarded * MIB, bytes(MIB))
        image.hand(vdikit.image(flat(image.guest), image.path.name, kind=vdikit.DIFFERENCING, own=own,
                                discarded=[discarded] if discarded >= 0 else [],
                                parent="gone.vdi" if gone else over.path.name), "written by hand")
        return image if gone else image.needs(over)

    base = make.images["vdi/oracle.vdi"]
    one = child("diff", base, comment="the parent is oracle.vdi, named by its UUID only")
    child("diff-3", one, "chain=3", discarded=2,
          comment="oracle <- diff <- this; a discarded block hides the parent's")
    child("diff-over-qemu", make.images["vdi/qemu-dynamic.vdi"], "discarded", discarded=2,
          comment="the parent is qemu-dynamic.vdi; a discarded block hides the parent's")
    child("diff-parent-gone", base, gone=True, expect="refuse-missing-parent", comment="no image with the parent's UUID exists")


GROUPS = [by_qemu, by_hand, differencing]
