#!/usr/bin/env bash
# Keeps the small inputs that fuzz/run.sh found in fuzz/corpus: of those of up to 2 KiB, by libFuzzer's
# own choice, the ones that reach what the others do not, and of each target at most 40.
#
#   fuzz/distil.sh [TARGET...]
#
# Takes what fuzz/run.sh takes from the environment. Run it after that, so that the targets are built.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${DISKIMAGE_FUZZ_WORK:-$PWD/fuzz/target/work}
binaries=${DISKIMAGE_FUZZ_BINARIES:-fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release}
inputs=${CARGO_TARGET_DIR:-target}/debug/fuzz-inputs
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <("$inputs" targets)

for target in "${targets[@]}"; do
    small=$(mktemp -d)
    best=$(mktemp -d)
    find "$work/$target/corpus" -type f -size -5 -exec cp -t "$small" {} +
    nice -n 19 "$binaries/$target" -merge=1 -max_len=2048 "$best" "$small" >/dev/null 2>&1 || true
    rm -rf "fuzz/corpus/$target"
    mkdir -p "fuzz/corpus/$target"
    # those that libFuzzer takes first are the smallest
    find "$best" -type f -printf '%s %p\n' | sort -n | head -n 40 | cut -d' ' -f2 |
        xargs -r cp -t "fuzz/corpus/$target"
    rm -r "$small" "$best"
    echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs"
done
