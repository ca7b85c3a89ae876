#!/bin/bash
# compare-content.sh - checksums and comparing: diskimage against the usual tools
#
#   usage: benches/compare-content.sh DIR
#
# DIR holds one disk as disk.qcow2 and disk-zlib.qcow2 (or deb.qcow2, deb-zlib.qcow2), as compare.sh
# makes them. Prints a table in Markdown; exits with 1 if an answer is wrong.
#
# Environment: ROUNDS=5 (one more goes before them), TARGET=/dev/shm (holds the raw disk),
# DISKIMAGE=PATH (the binary to measure), ONLY="sha256 sha256-zlib blkhash blkhash-zlib compare".
#
# sha256 and blkhash are measured against qemu-img convert and openssl dgst -sha256 of the result,
# compare against qemu-img compare. Before each run the images are read once, since virtual machines
# drop idle pages. CPU is user + system time; ratios are taken within a round, medians quoted.
# Needs qemu-utils, openssl, time (GNU).
set -euo pipefail
export LC_ALL=C
images=$1
base=disk
[ -e "$images/disk.qcow2" ] || base=deb
plain=$images/$base.qcow2 zlib=$images/$base-zlib.qcow2
if [ -z "${DISKIMAGE:-}" ]; then
  (cd "$(dirname "$0")/.." && cargo build --release >&2)
  DISKIMAGE=$(dirname "$0")/../target/release/diskimage
fi
work=$(mktemp -d "${TARGET:-/dev/shm}/content.XXXXXX")
trap 'rm -rf "$work"' EXIT
export work


digest() { qemu-img convert -O raw "$1" "$work/raw" && openssl dgst -sha256 -r "$work/raw"; }
export -f digest

# measure COMMAND...: its CPU and wall seconds and its peak in MiB, its answer in $work/answer
measure() {
  cat "$plain" "$zlib" >/dev/null
  /usr/bin/time -o "$work/time" -f '%U %S %e %M' "$@" >"$work/answer"
  awk '{ print $1 + $2, $3, $4 / 1024 }' "$work/time"
  rm -f "$work/raw"
}

echo "| workload | usual tool, CPU s | diskimage, CPU s | CPU ratio | wall ratio | peak MiB |"
echo "|---|---|---|---|---|---|"
for row in ${ONLY:-sha256 sha256-zlib blkhash blkhash-zlib compare}; do
  file=$plain
  if [[ $row == *-zlib ]]; then file=$zlib; fi
  usual=(bash -c 'digest "$1"' bash "$file")
  case $row in
    compare) usual=(qemu-img compare "$zlib" "$plain") ours=(compare "$zlib" "$plain") ;;
    *) ours=(checksum -a "${row%-zlib}" "$file") ;;
  esac
  for ((round = 0; round <= ${ROUNDS:-5}; round++)); do
    theirs=$(measure "${usual[@]}")
    cut -d ' ' -f 1 "$work/answer" >"$work/wanted"
    mine=$(measure "$DISKIMAGE" "${ours[@]}")
    cut -d ' ' -f 1 "$work/answer" >"$work/got"
    case $row in
      blkhash*) # the same of both images
        "$DISKIMAGE" checksum -a blkhash "$([ "$file" = "$plain" ] && echo "$zlib" || echo "$plain")" |
          cut -d ' ' -f 1 >"$work/wanted" ;;
    esac
    cmp -s "$work/wanted" "$work/got" || { echo "$row: a wrong answer" >&2; touch "$work/failed"; }
    if [ "$round" -gt 0 ]; then echo "$theirs $mine"; fi
  done | awk -v row="$row" '
    function median(list, n,   i, j, t) {
      for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] < list[j - 1]; j--) {
        t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
      }
      return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
    }
    { n++; a[n] = $1; b[n] = $4; cpu[n] = $4 / $1; wall[n] = $5 / $2; peak[n] = $6 }
    END {
      printf "| %s | %.2f | %.2f | %.2f | %.2f | %.0f |\n", row, median(a, n), median(b, n),
        median(cpu, n), median(wall, n), median(peak, n)
    }'
done
[ ! -e "$work/failed" ]
