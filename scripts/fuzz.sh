#!/bin/sh
# Runs every fuzz target for some minutes. Needs a nightly toolchain and cargo-fuzz:
#   rustup toolchain install nightly && cargo install cargo-fuzz
# Usage: scripts/fuzz.sh [SECONDS-EACH [TARGET...]]   (300 seconds, all targets)
set -eu
cd "$(dirname "$0")/../fuzz"
seconds=${1:-300}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- boot_cfg esx_conf tar archive fat partition image

for target in "$@"; do
    echo "fuzz: $target for $seconds s"
    mkdir -p "corpus/$target"
    # The code is safe Rust: the errors that a sanitizer finds cannot occur, and its own memory use would hide ours.
    cargo +nightly fuzz run --sanitizer none --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=256 -print_final_stats=1
done
