#!/bin/bash
# instructions.sh - how many instructions a few fixed workloads take, by callgrind
#
#   usage: benches/instructions.sh [--bless]
#
# Instruction counts are nearly the same on every machine and whatever else it does, so a
# slow-down shows where times would not. Prints a table beside benches/instructions.tsv and exits
# with 1 if a workload takes over a tenth more than it says there; --bless writes the file anew.
# The images are those of testdata/, unpacked; one thread, so that nobody waits for anybody.
#
# Environment:
#   DISKIMAGE=PATH      the binary to count, instead of one that cargo builds
#
# Needs valgrind, zstd.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
for tool in valgrind zstd; do
  command -v "$tool" >/dev/null || { echo "instructions.sh: $tool is not installed" >&2; exit 2; }
done
if [ -z "${DISKIMAGE:-}" ]; then
  cargo build --release --quiet
  DISKIMAGE=${CARGO_TARGET_DIR:-$root/target}/release/diskimage
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table=$root/benches/instructions.tsv

# count NAME COMMAND IMAGE OPTION...: a line of the table. @ stands for the target.
count() {
  local name=$1 command=$2 image=$work/${3##*/}
  cp "testdata/$3" "$image"
  if [ "${image%.zst}" != "$image" ]; then
    zstd -qdf --sparse "$image" -o "${image%.zst}"
    image=${image%.zst}
  fi
  shift 3
  local args=("$command" "$@" "$image")
  if [ "$command" = convert ]; then args+=("$work/output"); fi
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$DISKIMAGE" "${args[@]}" \
    >"$work/answer" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  printf '%s\t%s\n' "$name" "$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$work/log")"
}

{
  count 'info' info cloud.qcow2
  count 'probe' probe cloud.qcow2
  count 'map, 64 TiB' map qcow2/v3-sparse-64T.qcow2.zst --output json
  count 'map, fragmented' map qcow2/v3-cluster-512.qcow2.zst --output json
  count 'zlib QCOW2 to raw' convert cloud.qcow2 --threads 1 --no-sync
  count 'zstd QCOW2 to raw' convert qcow2/v3-zstd-64k.qcow2.zst --threads 1 --no-sync
  count 'plain QCOW2 to raw, zeros found' convert qcow2/v3-cluster-512.qcow2.zst -S 4k --threads 1 --no-sync
  count 'streamOptimized VMDK to raw' convert vmdk/qemu-stream.vmdk.zst --threads 1 --no-sync
} >"$work/table"
if [ "${1:-}" = --bless ]; then
  cp "$work/table" "$table"
  exit
fi
awk -F '\t' '
  NR == FNR { before[$1] = $2; next }
  !($1 in before) { printf "%-34s %12s %12d not in the table\n", $1, "", $2; worse = 1; next }
  { ratio = $2 / before[$1]
    printf "%-34s %12d %12d %.3f%s\n", $1, before[$1], $2, ratio, (ratio > 1.1 ? "  more" : "")
    if (ratio > 1.1) worse = 1 }
  END { exit worse }
' "$table" "$work/table"
