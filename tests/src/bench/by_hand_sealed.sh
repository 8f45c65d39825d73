#!/bin/sh
# The repair of one bank by hand on ESXi 7.0 Update 2 and later: as by_hand.sh, and a Python script that opens and
# closes the envelope (no command-line tool does AES-GCM with additional data), and sqlite3 for the ConfigStore.
# usage: by_hand_sealed.sh IMAGE@@OFFSET FOLDER ENVELOPE.PY
set -eu
bank=$1
envelope=$3
store=var/lib/vmware/configstore/backup/current-store-1
device="Component = 'esx' AND ConfigGroup = 'hardware' AND Name = 'pci_devices' AND Identifier = '0000:00:1f.2'"
cd "$2"
mkdir outer inner check
mcopy -i "$bank" ::/STATE.TGZ state.tgz
tar -xzf state.tgz -C outer
/usr/bin/python3 "$envelope" open outer/encryption.info outer/local.tgz.ve local.tgz
tar -xzf local.tgz -C inner
sqlite3 "inner/$store" "UPDATE Config SET UserValue =
    replace(UserValue, '\"owner\":\"OWNER_PASSTHRU\"', '\"owner\":\"OWNER_VMKERNEL\"') WHERE $device"
(cd inner && tar -czf ../local.tgz -- *)
/usr/bin/python3 "$envelope" close outer/encryption.info outer/local.tgz.ve local.tgz
(cd outer && tar -czf ../new.tgz local.tgz.ve encryption.info)
mcopy -o -i "$bank" state.tgz ::/STATE.OLD
mcopy -o -i "$bank" new.tgz ::/STATE.TGZ
mcopy -i "$bank" ::/STATE.TGZ back.tgz
cmp new.tgz back.tgz
tar -xzf back.tgz -C check
/usr/bin/python3 "$envelope" open check/encryption.info check/local.tgz.ve check/local.tgz
tar -xzf check/local.tgz -C check "$store"
sqlite3 "check/$store" "SELECT UserValue FROM Config WHERE $device" | grep -q '"owner":"OWNER_VMKERNEL"'
