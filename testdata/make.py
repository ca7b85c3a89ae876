#!/usr/bin/env python3
"""Make every test image and manifest.json.

    python3 testdata/make.py [FOLDER]

Writes into FOLDER (default: the folder of this script). Needs qemu-img, qemu-io,
7z and zstd. All content comes from seeded generators, so a second run with the same
tool versions gives the same bytes, except for the LUKS image: qemu draws its key
at random, so the stored one is kept if it is there. Commands in the manifest ran
in the image's own folder; guest.raw and data*.bin are the generated content.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

import make_apple
import make_qcow2
import make_relatives
import make_vdi
import make_vhd
import make_vhdx
import make_vmdk
from guest import KIB
from imagekit import Factory, Image, run

GROUPS = [group for module in (make_vmdk, make_vhd, make_vhdx, make_vdi, make_qcow2, make_relatives, make_apple) for group in module.GROUPS]


def store(image: Image, out: Path) -> None:
    """Copy or compress one finished image into the output folder."""
    target = out / image.stored
    target.parent.mkdir(parents=True, exist_ok=True)
    if "luks" in image.features and target.exists():
        return
    if image.plain:
        shutil.copyfile(image.path, target)
    else:
        run(out, ["zstd", "-q", "-f", "-19", "-T1", str(image.path), "-o", str(target)])


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    with tempfile.TemporaryDirectory() as folder:
        make = Factory(Path(folder).resolve())
        for group in GROUPS:
            group(make)
            for image in make.images.values():
                image.io()
        for image in make.images.values():
            image.verify()
        for image in make.images.values():
            store(image, out)
        entries = [image.entry() for _, image in sorted(make.images.items())]
    (out / "manifest.json").write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = {out / str(entry["stored"]) for entry in entries}
    for stray in sorted(set(out.glob("**/*.zst")) - kept):
        print("stray file, not in the manifest:", stray.relative_to(out))
    total = sum(path.stat().st_size for path in kept)
    print(f"{len(entries)} images, {total / KIB:.0f} KiB stored")


if __name__ == "__main__":
    main()
