#!/bin/bash
# compare.sh - diskimage against qemu-img, and 7-Zip, on the same images
#
#   usage: benches/compare.sh [DIR]
#
# Makes images in DIR by qemu-img and qemu-io (about eight times SIZE_MB; those that are there are
# used again; without DIR in a temporary folder that is removed), converts each to a raw file,
# maps and describes some, and prints a table in Markdown, as in the README. Exits with 1 if an
# output differs from qemu-img's, or a command fails.
#
# Environment:
#   ONLY="zlib plain"   these rows only, of: plain zlib zstd el2 chain frag huge vmdk stream vpc
#                       vhdx vdi ext4 xfs xfs-clone btrfs btrfs-clone map-huge map-frag info
#   IMAGES=DIR          uses images that exist and makes none: disk*.* or deb*.*, chain3.qcow2,
#                       frag.qcow2, huge.qcow2; rows without an image are left out
#   SIZE_MB=1024        size of the disk, of which half is data
#   ROUNDS=5            counted rounds; one more goes before them
#   TARGET=/dev/shm     where outputs go; has to hold two of them
#   DISKIMAGE=PATH      the binary to measure, instead of one that cargo builds
#   SAMPLES=FILE        where to keep every measurement, tab-separated
#   PICTURE=FILE        where to draw the ratios, as an SVG
#
# Needs qemu-utils, time (GNU), openssl; for the rows that are file systems mkfs of each and the
# right to mount, for 7-Zip's column p7zip-full. What is missing is left out with a message.
#
# What is measured: in every round `qemu-img`, `qemu-img -m 16 -W` and `diskimage` run in turn,
# each into a fresh file that is removed outside of the timing. The rows ext4, xfs and btrfs read and
# write on a file system of that kind in a file, the rows xfs-clone and btrfs-clone run
# `qemu-img convert -C`, which shares blocks as diskimage does by itself; neither program waits for
# the medium there (--no-sync), since qemu-img never does. Right before it the image is read
# once and a file as large as the output written and removed, since virtual machines drop idle
# pages, and return free ones to their host, within seconds. CPU is user + system time. The ratio
# is diskimage's figure by that of the qemu-img variant with less CPU time in the same round; the
# median of the rounds is quoted, as for the other columns. `load` is what others took of the
# processors meanwhile, in cores: above 0.2 the wall times mean little. Runs too short for the
# clock are repeated (map 10 times, info 100) and divided. Every output, of qemu-img too, is
# compared with that of the first run: the disk by cmp or, above 8 GiB, by qemu-img compare; the
# map without its white space; of info, the virtual size.
set -euo pipefail
export LC_ALL=C

ROUNDS=${ROUNDS:-5}
SIZE_MB=${SIZE_MB:-1024}
ONLY=${ONLY:-plain zlib zstd el2 chain frag huge vmdk stream vpc vhdx vdi ext4 xfs xfs-clone btrfs \
btrfs-clone map-huge map-frag info}
SMALL_SIZE=1073741824

say() { printf '%s\n' "$*" >&2; }
die() { say "compare.sh: $*"; exit 2; }

for tool in qemu-img qemu-io openssl /usr/bin/time; do
  command -v "$tool" >/dev/null || die "$tool is not installed"
done
work=$(mktemp -d "${TARGET:-/dev/shm}/compare.XXXXXX")
mounted=
# shellcheck disable=SC2329  # the trap calls it
clean_up() {
  if [ -n "$mounted" ]; then umount "$mounted"; fi
  rm -rf "$work" ${scratch:+"$scratch"} ${mounted:+"$mounted" "$mounted.image"}
}
trap clean_up EXIT
if [ -n "${IMAGES:-}" ]; then
  images=$IMAGES
elif [ $# -gt 0 ]; then
  mkdir -p "$1"
  images=$1
else
  scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/compare.XXXXXX")
  images=$scratch
fi
images=$(cd "$images" && pwd)
base=disk
if [ -n "${IMAGES:-}" ] && [ -e "$images/deb.qcow2" ]; then base=deb; fi
if [ -z "${DISKIMAGE:-}" ]; then
  root=$(cd "$(dirname "$0")/.." && pwd)
  (cd "$root" && cargo build --release --quiet) || die "diskimage could not be built"
  DISKIMAGE=${CARGO_TARGET_DIR:-$root/target}/release/diskimage
fi
samples=${SAMPLES:-$work/samples}
: >"$samples"
failed=0

# --- the images

# An endless stream of bytes that nothing compresses, the same each time for the same name.
noise() { openssl enc -aes-128-ctr -nosalt -pass "pass:$1" -md sha256 </dev/zero 2>/dev/null || true; }

# An endless stream of what lies in /usr/share, compressed files left out.
share() {
  find /usr/share -xdev -type f -size -1024k ! -name '*.gz' ! -name '*.png' -print0 | sort -z |
    xargs -0 cat 2>/dev/null | head -c 256M >"$1" || true
  [ -s "$1" ] || die "nothing to read in /usr/share"
  while cat "$1" 2>/dev/null; do :; done
}

# Each MiB of the disk: files, noise, then zeros, so that every cluster of its kind occurs. Every
# fourth run of 16 MiB is a hole.
make_disk() {
  local number text random
  exec 3< <(noise disk) 4< <(share "$1.text")
  for ((number = 0; number < SIZE_MB; number++)); do
    if ((number / 16 % 4 == 3)); then
      head -c 1M /dev/zero
      continue
    fi
    text=$((512 + number * 37 % 301)) random=$((number * 53 % 161))
    head -c "${text}K" <&4
    head -c "${random}K" <&3
    head -c $((1024 - text - random))K /dev/zero
  done >"$1"
  exec 3<&- 4<&-
  rm -f "$1.text"
  fallocate --dig-holes "$1"
}

# Numbers below $1 in random order, $2 of them, the same each time.
shuffled() { shuf -i "0-$(($1 - 1))" -n "$2" --random-source=<(noise shuffle); }

# write NUMBER... as commands of qemu-io, of $1 bytes each at multiples of them
writes() { awk -v unit="$1" '{ printf "write -q -P %d %.0f %d\n", $1 % 255 + 1, $1 * unit, unit }'; }

# Makes the file $2 as the image $1. A relative backing file lies beside it.
make_as() {
  local convert=(qemu-img convert -q -f raw)
  case $1 in disk.raw | chain* | frag* | huge*) ;; *) need disk.raw ;; esac
  case $1 in
    disk.raw) make_disk "$2" ;;
    disk.qcow2) "${convert[@]}" -O qcow2 disk.raw "$2" ;;
    disk-zlib.qcow2) "${convert[@]}" -O qcow2 -c disk.raw "$2" ;;
    disk-zstd.qcow2) "${convert[@]}" -O qcow2 -c -o compression_type=zstd disk.raw "$2" ;;
    disk-el2.qcow2) "${convert[@]}" -O qcow2 -o extended_l2=on,cluster_size=128k disk.raw "$2" ;;
    disk.vmdk) "${convert[@]}" -O vmdk -o subformat=monolithicSparse disk.raw "$2" ;;
    disk-stream.vmdk) "${convert[@]}" -O vmdk -o subformat=streamOptimized disk.raw "$2" ;;
    disk.vhd) "${convert[@]}" -O vpc -o subformat=dynamic,force_size=on disk.raw "$2" ;;
    disk.vhdx) "${convert[@]}" -O vhdx -o subformat=dynamic disk.raw "$2" ;;
    disk.vdi) "${convert[@]}" -O vdi disk.raw "$2" ;;
    chain[123].qcow2) # a tenth of the disk written anew, over the one below
      local below=disk.qcow2 number=${1:5:1}
      if [ "$number" != 1 ]; then below=chain$((number - 1)).qcow2; fi
      need "$below"
      qemu-img create -q -f qcow2 -b "$below" -F qcow2 "$2"
      shuffled $((SIZE_MB * 128)) $((SIZE_MB * 40)) | awk -v n="$number" 'NR % 3 == n - 1' |
        writes 8192 | qemu-io -t unsafe -f qcow2 "$2" >/dev/null ;;
    frag.qcow2) # a quarter of a larger disk, in random order
      qemu-img create -q -f qcow2 "$2" $((SIZE_MB * 4))M
      shuffled $((SIZE_MB * 64)) $((SIZE_MB * 16)) | writes 65536 |
        qemu-io -t unsafe -f qcow2 "$2" >/dev/null ;;
    huge.qcow2) # 1 MiB in every 20 GiB
      qemu-img create -q -f qcow2 "$2" 10T
      seq 0 20480 10485759 | writes 1048576 | qemu-io -t unsafe -f qcow2 "$2" >/dev/null ;;
  esac
}

# Makes the image $1 unless it exists; false if it does not and is not to be made.
need() {
  if [ -e "$images/$1" ]; then return; fi
  if [ -n "${IMAGES:-}" ]; then return 1; fi
  say "making $1"
  (cd "$images" && make_as "$1" "$1.part" && mv "$1.part" "$1") || die "$1 could not be made"
}

# --- measuring

# The processors' busy time so far, in ticks, for all processes and stolen.
busy() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat; }

# measure ROW VARIANT ROUND TIMES COMMAND...: runs it so many times, and keeps what it took.
# Its standard output goes to $work/answer.
measure() {
  local row=$1 variant=$2 round=$3 times=$4 before after
  shift 4
  before=$(busy)
  # shellcheck disable=SC2016  # the inner shell's variables
  local loop='file=$1 left=$2; shift 2
    while [ "$left" -gt 0 ]; do "$@" >"$file" || exit; left=$((left - 1)); done'
  if [ "$times" = 1 ]; then
    /usr/bin/time -o "$work/time" -f '%U %S %e %M' "$@" >"$work/answer"
  else
    /usr/bin/time -o "$work/time" -f '%U %S %e %M' sh -c "$loop" sh "$work/answer" "$times" "$@"
  fi || return
  after=$(busy)
  if [ "$round" = 0 ]; then return; fi
  # row, variant, round, CPU and wall seconds of one run, peak in MiB, load by others in cores
  awk -v row="$row" -v variant="$variant" -v round="$round" -v times="$times" \
    -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" -v OFS='\t' '
      { cpu = $1 + $2; others = (ticks / hertz - cpu) / ($3 > 0 ? $3 : 0.01)
        if (others < 0) others = 0
        print row, variant, round, cpu / times, $3 / times, $4 / 1024, others }
    ' "$work/time" >>"$samples"
}

# The command of a row and variant for a source, in the array `command`.
command_of() {
  local row=$1 variant=$2 source=$3 target=$4
  case $row:$variant in
    ext4:diskimage | xfs*:diskimage | btrfs*:diskimage)
      command=("$DISKIMAGE" convert --no-sync "$source" "$target") ;;
    *:clone) command=(qemu-img convert -C -O raw "$source" "$target") ;;
    *:7z) # the type by name, or it looks into the disk for file systems too
      local type=qcow
      case $row in vmdk | vdi) type=$row ;; vpc) type=vhd ;; esac
      # shellcheck disable=SC2016  # the inner shell's variables
      local extract='exec 7z e "-t$1" -so -bd "$2" >"$3" 2>/dev/null'
      command=(sh -c "$extract" sh "$type" "$source" "$target") ;;
    map-*:diskimage) command=("$DISKIMAGE" map --output json "$source") ;;
    map-*) command=(qemu-img map --output json "$source") ;;
    info:diskimage) command=("$DISKIMAGE" info --output json "$source") ;;
    info:*) command=(qemu-img info --output json "$source") ;;
    *:diskimage) command=("$DISKIMAGE" convert --allow-external -O raw "$source" "$target") ;;
    *:default) command=(qemu-img convert -O raw "$source" "$target") ;;
    *:parallel) command=(qemu-img convert -m 16 -W -O raw "$source" "$target") ;;
  esac
}

# Makes of what the row's command left behind that which has to be the same, as $work/result.
result_of() {
  case $1 in
    map-*) tr -d ' ' <"$work/answer" >"$work/result" ;;
    info) tr -d ' \n' <"$work/answer" | grep -o "\"virtual-size\":$SMALL_SIZE," >"$work/result" ;;
    *) mv "$2" "$work/result" ;;
  esac
}

same() {
  local size
  size=$(stat -c %s "$1")
  if [ "$size" -ne "$(stat -c %s "$2")" ]; then return 1; fi
  if [ "$size" -le $((8 << 30)) ]; then cmp -s "$1" "$2"; return; fi
  qemu-img compare -q -f raw -F raw "$1" "$2"
}

# compare ROW SOURCE TARGET: all rounds of a row.
compare() {
  local row=$1 source=$2 target=$3 times=1 variants=(default parallel diskimage)
  local round variant command chain
  case $row in
    map-*) times=10 variants=(default diskimage) ;;
    info) times=100 variants=(default diskimage) ;;
    *-clone) variants=(clone diskimage) ;;
    plain | zlib | vmdk | vpc | vdi)
      if command -v 7z >/dev/null; then variants+=(7z); fi ;;
  esac
  mapfile -t chain < <(qemu-img info --backing-chain "$source" | sed -n 's/^image: //p')
  for ((round = 0; round <= ROUNDS; round++)); do
    for variant in "${variants[@]}"; do
      rm -f "$target" "$work/answer" "$work/result"
      cat "${chain[@]:-$source}" >/dev/null
      if [ -e "$work/reference" ]; then
        head -c "$(stat -c %b "$work/reference")b" /dev/zero >"$work/output"
        rm "$work/output"
      fi
      command_of "$row" "$variant" "$source" "$target"
      if ! measure "$row" "$variant" "$round" "$times" "${command[@]}" ||
        ! result_of "$row" "$target"; then
        say "$row: failed: ${command[*]}"
        return 1
      fi
      if [ ! -e "$work/reference" ]; then
        mv "$work/result" "$work/reference"
      elif ! same "$work/reference" "$work/result"; then
        say "$row: the output differs: ${command[*]}"
        return 1
      fi
    done
  done
}

# What a row is, for people.
label() {
  case $1 in
    plain) echo "QCOW2, plain → raw" ;;
    zlib) echo "QCOW2, zlib → raw" ;;
    zstd) echo "QCOW2, zstd → raw" ;;
    el2) echo "QCOW2, extended L2 → raw" ;;
    chain) echo "QCOW2, three overlays → raw" ;;
    frag) echo "QCOW2, written in random order → raw" ;;
    huge) echo "QCOW2, 10 TiB with little data → raw" ;;
    vmdk) echo "VMDK monolithicSparse → raw" ;;
    stream) echo "VMDK streamOptimized → raw" ;;
    vpc) echo "VHD dynamic → raw" ;;
    vhdx) echo "VHDX dynamic → raw" ;;
    vdi) echo "VDI dynamic → raw" ;;
    ext4) echo "QCOW2, plain → raw, on one ext4" ;;
    xfs) echo "QCOW2, plain → raw, on one XFS" ;;
    btrfs) echo "QCOW2, plain → raw, on one Btrfs" ;;
    xfs-clone) echo "the same against \`qemu-img -C\`, XFS" ;;
    btrfs-clone) echo "the same against \`qemu-img -C\`, Btrfs" ;;
    map-huge) echo "map of the 10 TiB image" ;;
    map-frag) echo "map of the fragmented image" ;;
    info) echo "info of a small image" ;;
  esac
}

# The table's line for a row.
line() {
  awk -F '\t' -v row="$1" -v label="$(label "$1")" '
    function median(list, n,   i, j, t) {
      for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
        t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
      }
      return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
    }
    $1 != row { next }
    { load[++loads] = $7 }
    $2 == "7z" { zips[++z] = $4; next }
    $2 == "diskimage" { n++; cpu[$3] = $4; wall[$3] = $5; peak[$3] = $6; next }
    !($3 in best) || $4 < best[$3] { best[$3] = $4; wall_of[$3] = $5; peak_of[$3] = $6 }
    function by(a, b) { return a / (b > 0 ? b : 0.0001) }
    function figure(s) { return sprintf(s < 0.01 ? "%.4f" : s < 0.1 ? "%.3f" : "%.2f", s) }
    END {
      for (r = 1; r <= n; r++) { ratio[r] = by(cpu[r], best[r]); walls[r] = by(wall[r], wall_of[r]) }
      printf "| %s | %s | %s | %s | %.2f | %.2f | %.0f | %.1f |\n", label,
        figure(median(best, n)), z ? figure(median(zips, z)) : "", figure(median(cpu, n)),
        median(ratio, n), median(walls, n), median(peak, n), median(load, loads)
    }' "$samples"
}

# Mounts a new file system of the kind $1 with the file $2 in it; false if that cannot be.
mount_with() {
  local kind=$1 options=()
  unmount
  case $kind in xfs) options=(-m reflink=1) ;; ext4) options=(-F) ;; esac
  mounted=$(mktemp -d "${TMPDIR:-/var/tmp}/compare.XXXXXX")
  truncate -s "$((SIZE_MB + 11264))M" "$mounted.image"
  if ! "mkfs.$kind" -q "${options[@]}" "$mounted.image" >/dev/null 2>&1 ||
    ! mount -o loop "$mounted.image" "$mounted" 2>/dev/null; then
    rm -rf "$mounted" "$mounted.image"
    mounted=
    return 1
  fi
  cp "$2" "$mounted/image" && sync -f "$mounted"
}

unmount() {
  if [ -z "$mounted" ]; then return; fi
  umount "$mounted"
  rm -rf "$mounted" "$mounted.image"
  mounted=
}

say "$(qemu-img --version | head -n 1); $("$DISKIMAGE" --version); $(nproc) processors"
{
  echo "| workload | qemu-img, CPU s | 7-Zip, CPU s | diskimage, CPU s | CPU ratio | wall ratio | peak MiB | load |"
  echo "|---|---|---|---|---|---|---|---|"
} | tee "$work/table"
for row in $ONLY; do
  case $row in
    plain | ext4 | xfs* | btrfs*) file=$base.qcow2 ;;
    zlib | zstd | el2) file=$base-$row.qcow2 ;;
    chain) file=chain3.qcow2 ;;
    frag | huge) file=$row.qcow2 ;;
    stream) file=$base-stream.vmdk ;;
    vpc) file=$base.vhd ;;
    vmdk | vhdx | vdi) file=$base.$row ;;
    map-frag | map-huge) file=${row#map-}.qcow2 ;;
    info) file= ;;
    *) die "there is no row '$row'" ;;
  esac
  target=$work/output
  if [ "$row" = info ]; then
    source=$work/small.qcow2
    qemu-img create -q -f qcow2 "$source" $SMALL_SIZE
  elif need "$file"; then
    source=$images/$file
  else
    say "$row: left out, $file does not exist"
    continue
  fi
  case $row in
    ext4 | xfs* | btrfs*)
      if ! mount_with "${row%-clone}" "$source"; then
        say "$row: left out, such a file system cannot be made or mounted here"
        continue
      fi
      source=$mounted/image target=$mounted/output ;;
  esac
  say "$row: $((ROUNDS + 1)) rounds"
  if compare "$row" "$source" "$target"; then line "$row" | tee -a "$work/table"; else failed=1; fi
  rm -f "$target" "$work/answer" "$work/result" "$work/reference"
  unmount
done
if [ -n "${PICTURE:-}" ]; then
  awk -f "$(dirname "$0")/picture.awk" "$work/table" >"$PICTURE"
fi
exit $failed
