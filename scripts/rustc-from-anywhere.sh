#!/usr/bin/env bash
# Cargo calls this in place of rustc (.cargo/config.toml): the same, but the paths of this clone and of the downloaded crates
# do not get into what is built, so that the same sources give the same bytes wherever they lie.
rustc=$1
shift
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
set -- "$@" "--remap-path-prefix=$root=/esxi-rescue"
for crates in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    set -- "$@" "--remap-path-prefix=$crates=/crates"
done
exec "$rustc" "$@"
