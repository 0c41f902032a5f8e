#!/bin/busybox sh
# The guest's first process: this machine's file system, to be read only, with a memory over it that
# takes what is written, and in it the command named after "--" on the kernel's command line.
export PATH=/bin
busybox mkdir -p /proc /sys /dev /live /memory /root
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
echo /bin/modprobe > /proc/sys/kernel/modprobe
modprobe -a virtio_pci virtio_blk virtiofs overlay loop dm_mod 2>/dev/null
modprobe -a 8021q crc32_generic crc32c_generic rdma_rxe 2>/dev/null
modprobe null_blk nr_devices=0 2>/dev/null  # who wants one makes it, by configfs
busybox mount -t virtiofs -o ro live /live 2>/dev/null || busybox mount -t hostfs -o ro,/ none /live
busybox mount -t tmpfs memory /memory
busybox mkdir /memory/writes /memory/work
busybox mount -t overlay -o lowerdir=/live,upperdir=/memory/writes,workdir=/memory/work live /root
busybox mount -t proc proc /root/proc
busybox mount -t sysfs sys /root/sys
busybox mount -t devtmpfs dev /root/dev
busybox mkdir -p /root/dev/shm /root/dev/pts
busybox mount -t devpts pts /root/dev/pts
for folder in /run /dev/shm; do busybox mount -t tmpfs tmpfs /root$folder; done
busybox mkdir /run
busybox ip link set lo up
cd /root
busybox mount --move . /  # or who enters a mount namespace would land in the initramfs
busybox chroot . "$@"
busybox poweroff -f
