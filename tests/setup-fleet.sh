#!/bin/sh
# Makes a Python environment with Ansible, its collection community.general, and sushy-tools, which answers as
# BMCs do (Redfish). usage: setup-fleet.sh FOLDER. Does nothing when the folder is complete.
set -eu
folder=$1
packages='ansible-core>=2.18,<2.20 sushy-tools bcrypt'
# Ansible's own server for collections is not reached from everywhere; this package carries them all.
carrier='ansible>=11.6,<13'
complete() { [ "$(cat "$folder/complete" 2>/dev/null)" = "$packages $carrier" ]; }
complete && exit 0
mkdir -p "$(dirname "$folder")"
# Tests run side by side: the first one makes it, the others wait.
exec 9>"$folder.lock"
flock 9
complete && exit 0
rm -rf "$folder"
# python3-libvirt is Debian's: it belongs to the libvirt that is installed.
/usr/bin/python3 -m venv --system-site-packages "$folder" || { echo "python3 -m venv failed: apt-get install python3-venv" >&2; exit 1; }
# An index that fails once must not fail a test.
pip() {
    for pause in 5 30 0; do
        "$folder/bin/pip" "$@" --quiet --disable-pip-version-check && return
        sleep "$pause"
    done
    return 1
}
# shellcheck disable=SC2086
pip install $packages
pip download --no-deps --dest "$folder/carrier" "$carrier"
"$folder/bin/python3" - "$folder" <<'PYTHON'
import glob, sys, zipfile
folder = sys.argv[1]
with zipfile.ZipFile(glob.glob(folder + "/carrier/*.whl")[0]) as wheel:
    wheel.extractall(folder + "/collections", [name for name in wheel.namelist() if name.startswith("ansible_collections/community/general/")])
PYTHON
rm -r "$folder/carrier"
"$folder/bin/python3" -c 'import libvirt, sushy_tools'
echo "$packages $carrier" >"$folder/complete"
