#!/bin/sh
# The repair of one bank by hand, as the guides for ESXi 6 and earlier have it: mtools, GNU tar, gzip, sed.
# usage: by_hand.sh IMAGE@@OFFSET FOLDER
# It is spared everything that could be argued about: finding the bank, the volume's state, keeping the original,
# a flush, a look inside what was written.
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
mcopy -o -i "$bank" new.tgz ::/STATE.TGZ
mcopy -i "$bank" ::/STATE.TGZ back.tgz
cmp new.tgz back.tgz
