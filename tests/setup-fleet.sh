#!/bin/sh
# Makes a Python environment with Ansible, its collection community.general, and sushy-tools, which answers as
# BMCs do (Redfish). usage: setup-fleet.sh FOLDER. Does nothing when the folder is complete.
set -eu
folder=$1
packages='ansible-core>=2.18,<2.20 sushy-tools bcrypt'
# Ansible's own server for collections is not reached from everywhere; this package carries them all.
carrier='ansible>=11.6,<13'
contents="$packages $carrier"
. "$(dirname "$0")/environment.sh"
# python3-libvirt is Debian's: it belongs to the libvirt that is installed.
begin --system-site-packages
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
end
