#!/bin/sh
# Installs what `make image`, `make check`, `make test` or `make test-hosts` needs on Debian 12 or later, or Ubuntu: missing
# packages only, and a Rust toolchain only if there is none that is new enough. As root, or with sudo.
# Usage: scripts/setup.sh image|check|test|release|hosts
set -eu

need='ca-certificates debian-archive-keyring gcc libc6-dev make'
case "${1-}" in
image) ;;
check) need="$need gdisk fdisk sqlite3 git" ;;
test)
    need="$need curl jq ovmf groff-base gdisk fdisk sqlite3 openssl python3 python3-venv python3-cryptography kmod binutils cpio gzip tar zstd file shim-unsigned strace qemu-utils bzip2 zip unzip"
    # For a live Linux in a machine.
    need="$need busybox-static"
    # A browser, and the reader that BMCs name themselves as, for `collect`.
    need="$need chromium chromium-driver httpfs2 fuse"
    # Machines behind BMCs. Not libvirt-daemon-system: the tests start libvirt by themselves, and only for themselves.
    need="$need libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt python3-pexpect"
    command -v qemu-system-x86_64 >/dev/null || need="$need qemu-system-x86"
    ;;
release) need="$need git gnupg jq" ;;
hosts) need='debootstrap git ca-certificates debian-archive-keyring' ;;
*) echo "usage: $0 image|check|test|release|hosts" >&2; exit 2 ;;
esac
# What the tests make boot images with; the images that are shipped are made with programs that the builder gets itself.
case $1 in check | test) need="$need xorriso grub-pc-bin grub-common mtools dosfstools xz-utils" ;; esac
command -v apt-get >/dev/null || { echo "$0: this needs Debian 12 or later (no apt-get here)" >&2; exit 1; }

root=$(dirname "$0")/..
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
new_enough() { at_least "$1" "$wanted"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "$0: run as root, or install sudo: $*" >&2; exit 1; fi
}
updated=
update() { [ -n "$updated" ] || { echo "setup: refreshing the package lists"; as_root apt-get -q -q update; updated=1; }; }
installed() { dpkg-query -W -f '${Package} ${Status}\n' 2>/dev/null | sed -n 's/ install ok installed$//p'; }

# Debian 12 and 13 do not have the same packages, and without lists it is not known which they have.
offered() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [0-9]'; }
if [ "$1" = test ]; then
    offered make || update
    # The file system over HTTP that BMCs name themselves as.
    offered httpfs2 || need=$(echo "$need" | sed 's/ httpfs2 / httpdirfs /')
    # libvirt's storage driver, where it is not in libvirt's own package.
    ! offered libvirt-daemon-driver-storage || need="$need libvirt-daemon-driver-storage"
fi

find_missing() {
    present=" $(installed | tr '\n' ' ')"
    missing=
    for package in $need; do
        case "$present" in *" $package "*) ;; *) missing="$missing $package" ;; esac
    done
}
install_missing() {
    echo "setup: installing$missing"
    update
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
}

find_missing

if [ "$1" != hosts ] && ! { command -v cargo >/dev/null && new_enough "$(cargo --version | cut -d ' ' -f 2)"; }; then
    update
    for set in 'cargo rustc rustfmt rust-clippy' 'cargo-web rustc-web rustfmt-web rust-web-clippy'; do
        offered=$(apt-cache policy "${set%% *}" | sed -n 's/^ *Candidate: //p')
        # apt prints "(none)" for a package that it knows by name only; sort would take that for a high version.
        if [ -n "$offered" ] && [ "$offered" != "(none)" ] && new_enough "${offered%%[+~-]*}"; then missing="$missing $set"; rust=found; break; fi
    done
    [ -n "${rust-}" ] || {
        echo "$0: Rust $wanted or later is needed and apt offers none; run" >&2
        echo "  apt-get install curl ca-certificates      # as root, if they are missing" >&2
        echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal" >&2
        exit 1
    }
fi

if [ -n "$missing" ]; then
    install_missing
    # apt removes what does not fit what it installs, such as a tool of a newer Debian: that is among the needed.
    find_missing
    [ -z "$missing" ] || install_missing
else
    echo "setup: no packages to install"
fi
[ "$1" = check ] || exit 0

for part in fmt clippy; do
    cargo "$part" --version >/dev/null 2>&1 || {
        echo "$0: cargo $part is missing; run: rustup component add rustfmt clippy" >&2
        exit 1
    }
done

# Built without optimisation: it runs for two seconds, and optimised it takes ten times as long to build.
deny=0.20.2
present=$(cargo deny --version 2>/dev/null | cut -d ' ' -f 2)
if [ -z "$present" ] || ! at_least "$present" "$deny"; then
    echo "setup: building cargo-deny $deny (once; about a minute on two cores)"
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug cargo-deny --version "$deny"
fi
