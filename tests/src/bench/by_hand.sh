#!/bin/sh
# The repair of one bank by hand, as the guides for ESXi 6 and earlier have it: mtools, GNU tar, gzip, sed. It does what
# the agent does: keeps the original in the bank, reads back what it wrote, and looks inside it. It is told where the
# bank is and does not check the volume.
# usage: by_hand.sh IMAGE@@OFFSET FOLDER
set -eu
bank=$1
cd "$2"
mkdir outer inner
mcopy -i "$bank" ::/STATE.TGZ state.tgz
tar -xzf state.tgz -C outer
tar -xzf outer/local.tgz -C inner
sed -i 's|^\(/device/00000:000:31.2/owner = \)"passthru"|\1"vmkernel"|' inner/etc/vmware/esx.conf
(cd inner && tar -czf ../outer/local.tgz -- *)
(cd outer && tar -czf ../new.tgz local.tgz)
mcopy -o -i "$bank" state.tgz ::/STATE.OLD
mcopy -o -i "$bank" new.tgz ::/STATE.TGZ
mcopy -i "$bank" ::/STATE.TGZ back.tgz
cmp new.tgz back.tgz
tar -xzOf back.tgz local.tgz | tar -xzOf - etc/vmware/esx.conf >esx.conf
grep -q '^/device/00000:000:31.2/owner = "vmkernel"' esx.conf
