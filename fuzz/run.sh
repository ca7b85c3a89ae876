#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer, at the lowest priority, and prints a line for each.
#
#   fuzz/run.sh [SECONDS [JOBS [TARGET...]]]
#
# Default: 600 seconds, three targets side by side, all targets. Corpora, logs and findings go to
# fuzz/target/work, or $DISKIMAGE_FUZZ_WORK. Corpora are kept from run to run and begin with the
# seeds from testdata/, the distilled inputs of fuzz/corpus and those of fuzz/regressions.
#
# $DISKIMAGE_FUZZ_BINARIES names a folder with targets that are built already.
#
# A run goes on after a finding until its time is up. More memory than the targets' allocator gives,
# or an input that takes longer than 5 seconds (25 where another program runs too) are findings as
# well; $DISKIMAGE_FUZZ_PATIENCE is another number of seconds, for a machine that has much else to
# do, since these are seconds of the wall clock. There is no sanitizer: it would look for what safe
# code cannot do, and take most of the time.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
jobs=${2:-3}
shift $(($# < 2 ? $# : 2))
work=${DISKIMAGE_FUZZ_WORK:-$PWD/fuzz/target/work}
binaries=${DISKIMAGE_FUZZ_BINARIES:-}
mkdir -p "$work"

nice -n 19 cargo build -p diskimage-fuzz --bin fuzz-inputs
inputs=${CARGO_TARGET_DIR:-target}/debug/fuzz-inputs
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <("$inputs" targets)

if [ -z "$binaries" ]; then
    binaries=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
    # link-time optimisation takes a minute for each target and brings nothing here
    export CARGO_PROFILE_RELEASE_LTO=off
    # one by one: the other executables of the package do not link with the engine
    for target in "${targets[@]}"; do
        nice -n 19 cargo +nightly fuzz build -s none --target-dir fuzz/target \
            --features libfuzzer "$target"
    done
fi

# one target, until its time is up
one() {
    local target=$1 patience=${DISKIMAGE_FUZZ_PATIENCE:-5}
    local folder=$work/$target log=$work/$target.log
    [ "$target" = convert_qemu ] && patience=$((patience + 20))
    mkdir -p "$folder/corpus" "$folder/findings"
    "$inputs" seeds "$target" "$folder/seeds"
    local distilled=()
    for place in "fuzz/corpus/$target" "fuzz/regressions/$target"; do
        [ -d "$place" ] && distilled+=("$place")
    done
    : >"$log"
    local end=$((SECONDS + seconds)) found=0 starts=0
    local before
    before=$(find "$folder/findings" -type f | wc -l)
    while [ $SECONDS -lt $end ] && [ $starts -lt 50 ]; do
        starts=$((starts + 1))
        nice -n 19 "$binaries/$target" -max_total_time=$((end - SECONDS)) -print_final_stats=1 \
            -rss_limit_mb=1024 -timeout=$patience -max_len=131072 -len_control=0 \
            -artifact_prefix="$folder/findings/" \
            "$folder/corpus" "$folder/seeds" "${distilled[@]}" >>"$log" 2>&1 && break
    done
    found=$(($(find "$folder/findings" -type f | wc -l) - before))
    report "$target" "$log" "$found"
}

# executions, executions a second, edges and features seen, inputs in the corpus, findings
report() {
    local target=$1 log=$2 found=$3
    local executions covered corpus
    executions=$(awk '/number_of_executed_units/ { sum += $2 } END { print sum + 0 }' "$log")
    covered=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1)
    corpus=$(find "$work/$target/corpus" -type f | wc -l)
    printf '%-14s %9s executions %6s/s  %s  corpus %s  findings %s\n' "$target" "$executions" \
        $((executions / seconds)) "$covered" "$corpus" "$found"
}

export -f one report
export seconds work binaries inputs
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'set -uo pipefail; one {}'
