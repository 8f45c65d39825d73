#!/bin/sh
# Installs what `make image` or `make test` needs on Debian 12 or later: missing packages only, and a Rust
# toolchain only if there is none that is new enough. As root, or with sudo. Usage: scripts/setup.sh image|test
set -eu

need='xorriso mtools dosfstools grub-pc-bin grub-common xz-utils ca-certificates gcc libc6-dev make'
case "${1-}" in
image) ;;
test)
    need="$need curl jq ovmf groff-base gdisk fdisk sqlite3 openssl python3 python3-venv python3-cryptography kmod binutils cpio gzip tar zstd file shim-unsigned"
    # A browser, and the reader that BMCs name themselves as, for `collect`.
    need="$need chromium chromium-driver httpfs2 fuse"
    command -v qemu-system-x86_64 >/dev/null || need="$need qemu-system-x86"
    ;;
*) echo "usage: $0 image|test" >&2; exit 2 ;;
esac
command -v apt-get >/dev/null || { echo "$0: this needs Debian 12 or later (no apt-get here)" >&2; exit 1; }

root=$(dirname "$0")/..
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
new_enough() { [ "$(printf '%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "$0: run as root, or install sudo: $*" >&2; exit 1; fi
}
updated=
update() { [ -n "$updated" ] || { echo "setup: refreshing the package lists"; as_root apt-get -q -q update; updated=1; }; }
installed() { dpkg-query -W -f '${Package} ${Status}\n' 2>/dev/null | sed -n 's/ install ok installed$//p'; }

present=" $(installed | tr '\n' ' ')"
missing=
for package in $need; do
    case "$present" in *" $package "*) ;; *) missing="$missing $package" ;; esac
done

# The builder takes kernel, shim and GRUB by apt: its lists must be there, and not older than a week. (The lists
# carry the archive's dates; the directory that apt works in tells when it last ran.)
lists=/var/lib/apt/lists
if ! ls "$lists" 2>/dev/null | grep -q _Packages || [ -z "$(find "$lists/partial" -maxdepth 0 -mtime -7 2>/dev/null)" ]; then
    update || echo "setup: no package lists to be had; going on with what is here" >&2
fi

if ! { command -v cargo >/dev/null && new_enough "$(cargo --version | cut -d ' ' -f 2)"; }; then
    update
    for pair in 'cargo rustc' 'cargo-web rustc-web'; do
        offered=$(apt-cache policy "${pair% *}" | sed -n 's/^ *Candidate: //p')
        # apt says "(none)" of a package that it knows by name only, which sort takes for a high version.
        if [ -n "$offered" ] && [ "$offered" != "(none)" ] && new_enough "${offered%%[+~-]*}"; then missing="$missing $pair"; rust=found; break; fi
    done
    [ -n "${rust-}" ] || {
        echo "$0: Rust $wanted or later is needed and apt offers none; run" >&2
        echo "  apt-get install curl ca-certificates      # as root, if they are missing" >&2
        echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal" >&2
        exit 1
    }
fi

[ -n "$missing" ] || { echo "setup: nothing to install"; exit 0; }
echo "setup: installing$missing"
update
# shellcheck disable=SC2086
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
