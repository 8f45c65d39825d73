#!/bin/sh
# Makes a Python environment with dissect.hypervisor, the outside reader of ESXi's encrypted archives.
# usage: setup-venv.sh FOLDER. Does nothing when the folder is complete.
set -eu
folder=$1
test -e "$folder/complete" && exit 0
mkdir -p "$(dirname "$folder")"
# Tests run side by side: the first one makes it, the others wait.
exec 9>"$folder.lock"
flock 9
test -e "$folder/complete" && exit 0
rm -rf "$folder"
/usr/bin/python3 -m venv "$folder" || { echo "python3 -m venv failed: apt-get install python3-venv" >&2; exit 1; }
"$folder/bin/pip" install --quiet --disable-pip-version-check dissect.hypervisor pycryptodome
"$folder/bin/python3" -c 'from dissect.hypervisor.util.envelope import Envelope, KeyStore'
touch "$folder/complete"
