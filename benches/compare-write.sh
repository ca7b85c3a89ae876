#!/bin/bash
# compare-write.sh - diskimage against qemu-img where both write images of the same disk
#
#   usage: benches/compare-write.sh DISK.raw
#
# Environment:
#   ONLY="zlib zstd"   these rows only, of: plain zlib zstd stream sparse vpc vhdx vdi, FROM-TO with
#                      two of vmdk vpc vhdx vdi, reflink measure; without, all of them
#   ROUNDS=3           counted rounds; one more goes before them
#   TARGET=/dev/shm    where the images go; has to hold the disk and two of them
#   DISKIMAGE=PATH     the binary to measure, instead of one that cargo builds
#
# In every round `qemu-img convert`, `qemu-img convert -m 16 -W` and `diskimage convert --no-sync`
# run in turn. CPU is user + system time; a ratio is diskimage's figure by that of the qemu-img
# variant with less CPU time in the same round, and the median of the rounds is printed, as are the
# size of the file by qemu-img's and the most memory that diskimage took. Every image of ours is
# compared with the disk and checked.
#
# `reflink` makes a QCOW2 beside the disk on an XFS of its own (which needs the right to mount),
# against `qemu-img convert -C` and its default. `measure` asks twenty times how large a QCOW2 of a
# disk of 10 TiB would be that has a mebibyte of data in every 20 GiB.
set -euo pipefail
export LC_ALL=C
ROUNDS=${ROUNDS:-3}
formats=(vmdk vpc vhdx vdi)
rows=(plain zlib zstd stream sparse vpc vhdx vdi)
for from in "${formats[@]}"; do
  for to in "${formats[@]}"; do
    if [ "$from" != "$to" ]; then rows+=("$from-$to"); fi
  done
done
ONLY=${ONLY:-${rows[*]} reflink measure}

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
cp --sparse=always "$1" "$work/disk.raw"
cd "$work"

# what was mounted is unmounted before its folder goes
mounted=
# shellcheck disable=SC2329  # the trap calls it
clean_up() {
  if [ -n "$mounted" ]; then umount "$mounted"; fi
  rm -rf "$work" ${mounted:+"$mounted" "$mounted.image"}
}
trap clean_up EXIT

# The options of a row, for both, in the array `options`; the format of its image in `format`, the
# source in `source` and its format in `source_format`.
options_of() {
  format=qcow2 source=disk.raw source_format=raw
  case $1 in
    plain | reflink) options=(-O qcow2) ;;
    zlib) options=(-O qcow2 -c) ;;
    zstd) options=(-O qcow2 -c -o compression_type=zstd) ;;
    stream) format=vmdk options=(-O vmdk -o subformat=streamOptimized) ;;
    sparse | vmdk) format=vmdk options=(-O vmdk) ;;
    vpc) format=vpc options=(-O vpc -o subformat=dynamic,force_size=on) ;;
    vhdx | vdi) format=$1 options=(-O "$1") ;;
    *-*) # both parts are rows too
      local from=${1%-*}
      if [ ! -e "source.$from" ]; then
        rm -f source.*
        options_of "$from"
        qemu-img convert -f raw "${options[@]}" disk.raw "source.$from"
      fi
      options_of "${1#*-}"
      source=source.$from source_format=$from ;;
    measure) options=(-O qcow2) source=huge.qcow2 source_format=qcow2 ;;
    *) die "there is no row '$1'" ;;
  esac
}

# took FILE COMMAND...: its CPU and wall seconds and peak in KiB, in `times`. What it says goes to
# the file `answer`.
took() {
  if [ "$1" != - ]; then rm -f "$1"; fi
  shift
  /usr/bin/time -o time -f '%U %S %e %M' "$@" >answer || die "failed: $*"
  read -r user system wall peak <time
  times="$(awk "BEGIN { print $user + $system, $wall, $peak }")"
}

# so many times
repeated() { for ((i = 0; i < 20; i++)); do "$@" || return; done; }
export -f repeated

echo '| target | qemu-img, CPU s | diskimage, CPU s | CPU ratio | wall ratio | size ratio | peak MiB |'
echo '|---|---|---|---|---|---|---|'
for row in $ONLY; do
  options_of "$row"
  here=. ours=("$DISKIMAGE" convert --no-sync -f "$source_format" "${options[@]/#-c/--compress}")
  variants=('' '-m 16 -W')
  case $row in
    stream) variants=('') ;; # streams are written by one coroutine only
    reflink)
      mounted=$(mktemp -d "${TMPDIR:-/var/tmp}/compare-write.XXXXXX")
      truncate -s $((3 * $(stat -c %s disk.raw) + (1 << 30))) "$mounted.image"
      if ! mkfs.xfs -q -m reflink=1 "$mounted.image" || ! mount -o loop "$mounted.image" "$mounted"; then
        rm -rf "$mounted" "$mounted.image"
        mounted=
        echo 'compare-write.sh: reflink left out: no XFS can be made or mounted' >&2
        continue
      fi
      cp --sparse=always disk.raw "$mounted"
      sync -f "$mounted"
      here=$mounted variants=(-C '') ours+=(--reflink=always) ;;
    measure)
      qemu-img create -q -f qcow2 huge.qcow2 10T
      seq 0 20480 10485759 | awk '{ printf "write -q -P %d %.0f 1M\n", $1 % 255 + 1, $1 * 1048576 }' |
        qemu-io -t unsafe -f qcow2 huge.qcow2 >/dev/null ;;
  esac
  : >samples
  for ((round = 0; round <= ROUNDS; round++)); do
    line=
    for variant in "${variants[@]}"; do
      # shellcheck disable=SC2086  # several arguments
      if [ "$row" = measure ]; then
        took - bash -c 'repeated "$@"' - qemu-img measure -O qcow2 -f qcow2 huge.qcow2
        mv answer said
      else
        took "$here/theirs" qemu-img convert $variant -f "$source_format" "${options[@]}" \
          "$here/$source" "$here/theirs"
      fi
      line="$line$times "
    done
    if [ "$row" = measure ]; then
      took - bash -c 'repeated "$@"' - "$DISKIMAGE" measure -O qcow2 -f qcow2 huge.qcow2
    else
      took "$here/ours" "${ours[@]}" "$here/$source" "$here/ours"
    fi
    if [ "$round" != 0 ]; then
      echo "$line$times" | awk '{
        cpu = $1; wall = $2
        if (NF > 6 && $4 < $1) { cpu = $4; wall = $5 }
        n = NF - 3
        print cpu, $(n + 1), $(n + 1) / (cpu > 0 ? cpu : 0.005), $(n + 2) / (wall > 0 ? wall : 0.005), $(n + 3) }' >>samples
    fi
  done
  size=
  if [ "$row" = measure ]; then
    # qemu-img counts tables for the whole disk, also where nothing is stored
    awk '/^required size/ { size[FILENAME] = $3 } END { exit size["answer"] > size["said"] }' said answer ||
      die 'measure: another size'
  else
    qemu-img compare -q -f raw -F "$format" disk.raw "$here/ours" || die "$row: another disk"
    "$DISKIMAGE" check -f "$format" "$here/ours" >check || die "$row: $(cat check)"
    size=$(awk "BEGIN { printf \"%.3f\", $(stat -c %s "$here/ours") / $(stat -c %s "$here/theirs") }")
  fi
  median() { cut -d ' ' -f "$1" samples | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
  peak=$(cut -d ' ' -f 5 samples | sort -g | tail -n 1)
  printf '| %s | %.3f | %.3f | %.2f | %.2f | %s | %.0f |\n' \
    "$row" "$(median 1)" "$(median 2)" "$(median 3)" "$(median 4)" "$size" "$((peak / 1024))"
  if [ -n "$mounted" ]; then
    umount "$mounted"
    rm -rf "$mounted" "$mounted.image"
    mounted=
  fi
done
