#!/bin/bash
# compare-write.sh - diskimage against qemu-img where both write images of the same disk
#
#   usage: benches/compare-write.sh DISK.raw
#
# Environment:
#   ONLY="zlib zstd"   these rows only, of: plain zlib zstd stream sparse vpc vdi
#   ROUNDS=3           counted rounds; one more goes before them
#   TARGET=/dev/shm    where the images go; has to hold the disk and two of them
#   DISKIMAGE=PATH     the binary to measure, instead of one that cargo builds
#
# In every round `qemu-img convert`, `qemu-img convert -m 16 -W` and `diskimage convert --no-sync`
# run in turn. CPU is user + system time; a ratio is diskimage's figure by that of the qemu-img
# variant with less CPU time in the same round, and the median of the rounds is printed, as is the
# size of the file by qemu-img's. Every image of ours is compared with the disk and checked.
set -euo pipefail
export LC_ALL=C
ROUNDS=${ROUNDS:-3}
ONLY=${ONLY:-plain zlib zstd stream sparse vpc vdi}

die() { printf 'compare-write.sh: %s\n' "$*" >&2; exit 2; }
[ $# = 1 ] || die 'one argument is wanted: a raw disk'
for tool in qemu-img /usr/bin/time; do
  command -v "$tool" >/dev/null || die "$tool is not installed"
done
if [ -z "${DISKIMAGE:-}" ]; then
  root=$(cd "$(dirname "$0")/.." && pwd)
  (cd "$root" && cargo build --release --quiet) || die 'diskimage could not be built'
  DISKIMAGE=${CARGO_TARGET_DIR:-$root/target}/release/diskimage
fi
work=$(mktemp -d "${TARGET:-/dev/shm}/compare-write.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp --sparse=always "$1" "$work/disk.raw"
cd "$work"

# The options of a row, for both, in the array `options`; its format in `format`.
options_of() {
  format=qcow2
  case $1 in
    plain) options=(-O qcow2) ;;
    zlib) options=(-O qcow2 -c) ;;
    zstd) options=(-O qcow2 -c -o compression_type=zstd) ;;
    stream) format=vmdk options=(-O vmdk -o subformat=streamOptimized) ;;
    sparse) format=vmdk options=(-O vmdk) ;;
    vpc) format=vpc options=(-O vpc -o subformat=dynamic) ;;
    vdi) format=vdi options=(-O vdi) ;;
    *) die "there is no row '$1'" ;;
  esac
}

# took FILE COMMAND...: its CPU and wall seconds, in `times`.
took() {
  rm -f "$1"
  shift
  /usr/bin/time -o time -f '%U %S %e' "$@" || die "failed: $*"
  read -r user system wall <time
  times="$(awk "BEGIN { print $user + $system, $wall }")"
}

echo '| target | qemu-img, CPU s | diskimage, CPU s | CPU ratio | wall ratio | size ratio |'
echo '|---|---|---|---|---|---|'
for row in $ONLY; do
  options_of "$row"
  : >samples
  for ((round = 0; round <= ROUNDS; round++)); do
    took theirs qemu-img convert -f raw "${options[@]}" disk.raw theirs
    first=$times
    second=$first
    # streams are written by one coroutine only
    if [ "$row" != stream ]; then
      took theirs qemu-img convert -m 16 -W -f raw "${options[@]}" disk.raw theirs
      second=$times
    fi
    took ours "$DISKIMAGE" convert --no-sync -f raw "${options[@]}" disk.raw ours
    if [ "$round" != 0 ]; then
      echo "$first $second $times" | awk '{
        cpu = $1; wall = $2
        if ($3 < $1) { cpu = $3; wall = $4 }
        print cpu, $5, $5 / cpu, $6 / wall }' >>samples
    fi
  done
  qemu-img compare -q -f raw -F "$format" disk.raw ours || die "$row: another disk"
  "$DISKIMAGE" check -f "$format" ours >check || die "$row: $(cat check)"
  median() { cut -d ' ' -f "$1" samples | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
  size=$(awk "BEGIN { print $(stat -c %s ours) / $(stat -c %s theirs) }")
  printf '| %s | %.2f | %.2f | %.2f | %.2f | %.3f |\n' \
    "$row" "$(median 1)" "$(median 2)" "$(median 3)" "$(median 4)" "$size"
done
