#!/bin/sh
# First and only script of the demo guest: everything runs from RAM.
export PATH=/bin HOME=/ TERM=vt100
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
hostname demo
for module in /lib/*.ko; do insmod "$module" 2>/dev/null; done

# The power button sends an input event; the first one shuts down.
for node in /sys/class/input/event*; do
	case $(cat "$node/device/name" 2>/dev/null) in
	*Power*Button*) (head -c 24 "/dev/input/${node##*/}" >/dev/null && echo "casemate demo: power button" && poweroff -f) & ;;
	esac
done

ip link set lo up
dmesg | grep 'Checked W+X mappings'
echo "Linux $(uname -r), up $(cat /proc/uptime)"
echo "casemate demo ready"
while :; do setsid cttyhack sh; done
