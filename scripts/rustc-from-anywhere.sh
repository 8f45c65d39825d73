#!/usr/bin/env bash
# Cargo calls this instead of rustc (.cargo/config.toml). It keeps the paths of this clone and of the downloaded crates
# out of the programs, so that the same sources give the same bytes in any folder.
rustc=$1
shift
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
set -- "$@" "--remap-path-prefix=$root=/esxi-rescue"
for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    set -- "$@" "--remap-path-prefix=$crates=/crates"
done
exec "$rustc" "$@"
