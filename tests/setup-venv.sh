#!/bin/sh
# Makes a Python environment with what the tests use: dissect.hypervisor, the outside reader of ESXi's encrypted
# archives, and virt-firmware, the outside editor of a firmware's variables (Secure Boot keys, the address to boot from).
# usage: setup-venv.sh FOLDER. Does nothing when the folder is complete.
set -eu
folder=$1
packages='dissect.hypervisor pycryptodome cryptography pefile'
# Without what it depends on: one of these has to be compiled on Python 3.13, and only serves a command that is not used here.
alone='virt-firmware'
contents="$packages $alone"
. "$(dirname "$0")/environment.sh"
begin
# shellcheck disable=SC2086
pip install --only-binary :all: $packages
pip install --only-binary :all: --no-deps $alone
"$folder/bin/python3" -c 'from dissect.hypervisor.util.envelope import Envelope, KeyStore'
"$folder/bin/virt-fw-vars" --help >/dev/null
end
