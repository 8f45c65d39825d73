#!/bin/sh
# Makes fuzz/seeds anew with outside tools: dosfstools, mtools, tar, gzip, gdisk, fdisk. The seeds are committed;
# this says where they come from.
set -eu
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf seeds
mkdir -p seeds/boot_cfg seeds/esx_conf seeds/tar seeds/archive seeds/fat seeds/partition

cat > seeds/boot_cfg/6.7 <<'TEXT'
bootstate=0
title=Loading VMware ESXi
timeout=5
prefix=
kernel=b.b00
kernelopt=no-auto-partition
modules=jumpstrt.gz --- useropts.gz --- k.b00 --- s.v00 --- imgdb.tgz --- state.tgz
build=6.7.0-8169922
updated=2
TEXT
printf 'bootstate=3\nbuild=\nupdated=1\n#x\nquickboot = 1\nUPDATED=-7\n' > seeds/boot_cfg/odd

mkdir -p "$work/etc/vmware"
conf=$work/etc/vmware/esx.conf
cat > "$conf" <<'TEXT'
/device/00000:000:31.2/owner = "passthru"
/device/00000:000:31.2/device = "3b25"
/device/000:31.2/owner="vmkernel" /device/0000:00:1f.2/owner = "passthru"
# a remark
/storage/nmp/vmhba[0001]/owner = "passthru"
TEXT
cp "$conf" seeds/esx_conf/devices
printf '/a = "b"\n/device/x/owner="passthru"\0/device/y/owner="passthru"' > seeds/esx_conf/ends-early

for format in oldgnu ustar v7 pax; do
    tar -C "$work" --format=$format -cf "seeds/tar/$format" etc
done
tar -C "$work" --format=gnu --transform="s,esx.conf,$(printf 'l%.0s' $(seq 120)).conf," -cf seeds/tar/long etc

tar -C "$work" --format=oldgnu -czf "$work/local.tgz" etc
tar -C "$work" --format=oldgnu -czf "$work/state.tgz" local.tgz
cp "$work/local.tgz" seeds/archive/local
cp "$work/state.tgz" seeds/archive/state
tar -C "$work" --format=oldgnu -cf seeds/archive/uncompressed local.tgz

fat() { # fat NAME TABLES FILE...
    image=$work/$1.img
    truncate -s 64K "$image"
    mkfs.fat -a --invariant -F 12 -S 512 -s 1 -R 2 -f "$2" -r 32 "$image" > "$work/log"
    name=$1
    shift 2
    mmd -i "$image" ::/DIR
    mcopy -i "$image" "$@" ::/
    mcopy -i "$image" "$work/boot.cfg" ::/DIR/INSIDE.TXT
    cp "$image" "seeds/fat/$name"
}
cp seeds/boot_cfg/6.7 "$work/boot.cfg"
head -c 1300 /dev/zero > "$work/STATE.ORG"
head -c 1700 /dev/zero > "$work/STATE.TGZ"
: > "$work/STATE.NEW"
fat fresh 2 "$work/boot.cfg" "$work/STATE.TGZ"
fat one-table 1 "$work/boot.cfg" "$work/STATE.TGZ"
fat repaired 2 "$work/STATE.TGZ" "$work/boot.cfg" "$work/STATE.ORG"
fat cut 2 "$work/STATE.TGZ" "$work/STATE.NEW" "$work/boot.cfg" "$work/STATE.ORG"

truncate -s 64M "$work/gpt"
sgdisk -a 1 -n 1:64:8191 -t 1:C12A7328-F81F-11D2-BA4B-00A0C93EC93B -n 5:8224:40000 \
    -t 5:EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 "$work/gpt" > "$work/log"
head -c 17408 "$work/gpt" > seeds/partition/gpt
truncate -s 64M "$work/mbr"
printf 'label: dos\n4: start=8, size=24, type=4, bootable\n1: start=32, size=120000, type=5\n5: start=40, size=16, type=6\n6: start=64, size=32, type=6\n2: start=130000, size=64, type=fb\n' |
    sfdisk --no-reread --force "$work/mbr" > "$work/log" 2>&1
head -c 65536 "$work/mbr" > seeds/partition/mbr
