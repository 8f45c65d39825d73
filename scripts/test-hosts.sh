#!/bin/sh
# Builds the images on fresh installations of Debian 12 and 13 (debootstrap, chroot) and compares what comes out: the same
# rescue-agent must give the same bytes on both. Then runs `make test` on the one that this machine does not run.
# As root. Only what is committed is built. An installation that is there already is used again.
# Usage: scripts/test-hosts.sh FOLDER [image|bookworm|trixie]
# `image`: only build and compare. A name: only `make image` and `make test` on that one.
set -eu
[ $# -ge 1 ] || { sed -n 's/^# Usage: /usage: /p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "$0: run as root" >&2; exit 1; }
# All mounts below end with this script, however it ends.
[ -n "${IN_OWN_MOUNTS-}" ] || exec env IN_OWN_MOUNTS=1 unshare --mount --propagation private sh "$0" "$@"

source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
mkdir -p "$1"
folder=$(CDPATH='' cd -- "$1" && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}

install_host() {
    host=$folder/$1
    if [ ! -e "$host/installed" ]; then
        [ ! -e "$host" ] || [ -e "$folder/$1.begun" ] || { echo "$host is there, and this script did not make it" >&2; exit 1; }
        touch "$folder/$1.begun"
        echo "== $1: installing"
        rm -rf "$host"
        debootstrap --variant=minbase --include=git,make,ca-certificates "$1" "$host" "$mirror" >"$folder/$1-debootstrap.log"
        printf 'deb %s %s main\ndeb %s %s-security main\n' "$mirror" "$1" "$security" "$1" >"$host/etc/apt/sources.list"
        apt-config dump | grep -E '^Acquire::(http|https)::Proxy' >"$host/etc/apt/apt.conf.d/90proxy" || true
        # What this machine trusts, for those behind a proxy that opens connections.
        cp /usr/local/share/ca-certificates/*.crt "$host/usr/local/share/ca-certificates/" 2>/dev/null || true
        chroot "$host" update-ca-certificates >/dev/null
        touch "$host/installed"
    fi
    cp /etc/resolv.conf "$host/etc/resolv.conf"
    # A root that is a mount, as on any machine: without it, no program inside can have mounts of its own.
    mount --bind "$host" "$host"
    mount -t proc proc "$host/proc"
    mount -t sysfs sysfs "$host/sys"
    mount --rbind /dev "$host/dev"
}

# inside SUITE COMMAND: in the clone on that installation.
inside() {
    chroot "$folder/$1" env -i HOME=/root LANG=C.UTF-8 TERM=dumb PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} sh -c "cd /root/clone && $2"
}

# build SUITE ARGUMENTS: the clone and its images, with nothing kept of an earlier build.
build() {
    echo "== $1: make image"
    rm -rf "$folder/$1/root/clone"
    git -c safe.directory='*' clone --quiet --no-hardlinks --upload-pack "git -c safe.directory='*' upload-pack" "$source" "$folder/$1/root/clone"
    inside "$1" "make image IMAGE_ARGS='$2'" >"$folder/$1-image.log" 2>&1 || { tail -n 30 "$folder/$1-image.log"; exit 1; }
}

# The manifest names the builder as well, which each installation compiles for itself.
sums() { grep -v ' manifest.json$' "$folder/$1/root/clone/dist/SHA256SUMS" >"$folder/$1.sums"; }

run_tests() {
    echo "== $1: make test"
    inside "$1" 'make test' >"$folder/$1-test.log" 2>&1 || { grep -E '^(test .* FAILED|test result|error|make: )' "$folder/$1-test.log"; exit 1; }
    grep '^test result' "$folder/$1-test.log"
}

case ${2-} in bookworm | trixie)
    install_host "$2"
    build "$2" ''
    run_tests "$2"
    exit 0
    ;;
esac
for suite in bookworm trixie; do install_host "$suite"; done
build bookworm ''
sums bookworm
cp "$folder/bookworm/root/clone/dist/bin/rescue-agent" "$folder/trixie/root/rescue-agent"
build trixie '--agent /root/rescue-agent'
sums trixie
if ! diff "$folder/bookworm.sums" "$folder/trixie.sums"; then
    echo "Debian 12 and Debian 13 made different images" >&2
    exit 1
fi
echo "== the same $(grep -c . "$folder/trixie.sums") files on Debian 12 and Debian 13"
[ "${2-}" != image ] || exit 0

other=trixie
[ "$(. /etc/os-release && echo "${VERSION_CODENAME-}")" != trixie ] || other=bookworm
run_tests "$other"
