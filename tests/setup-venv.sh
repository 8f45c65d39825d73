#!/bin/sh
# Makes a Python environment with what the tests use: dissect.hypervisor, the outside reader of ESXi's encrypted
# archives, and virt-firmware, the outside editor of a firmware's variables (Secure Boot keys, the address to boot from).
# usage: setup-venv.sh FOLDER. Does nothing when the folder is complete.
set -eu
folder=$1
packages='dissect.hypervisor pycryptodome cryptography pefile'
# Without what it depends on: one of these has to be compiled on Python 3.13, and only serves a command that is not used here.
alone='virt-firmware'
complete() { [ "$(cat "$folder/complete" 2>/dev/null)" = "$packages $alone" ]; }
complete && exit 0
mkdir -p "$(dirname "$folder")"
# Tests run side by side: the first one makes it, the others wait.
exec 9>"$folder.lock"
flock 9
complete && exit 0
rm -rf "$folder"
/usr/bin/python3 -m venv "$folder" || { echo "python3 -m venv failed: apt-get install python3-venv" >&2; exit 1; }
# An index that fails once must not fail a test.
pip() {
    for pause in 5 30 0; do
        "$folder/bin/pip" "$@" --quiet --disable-pip-version-check && return
        sleep "$pause"
    done
    return 1
}
# shellcheck disable=SC2086
pip install --only-binary :all: $packages
pip install --only-binary :all: --no-deps $alone
"$folder/bin/python3" -c 'from dissect.hypervisor.util.envelope import Envelope, KeyStore'
"$folder/bin/virt-fw-vars" --help >/dev/null
echo "$packages $alone" >"$folder/complete"
