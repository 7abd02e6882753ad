# Gives the commands of a tutorial the paths that it speaks of, without touching the machine's own.
#
#   unshare --mount --pid --fork --kill-child bash room.sh FOLDER
#
# In a mount namespace of its own, the root is put together from the machine's programs and devices
# (bind mounts) and from empty folders for all that a tutorial names: /backups, /mnt, /srv, /tmp,
# /root, /var. FOLDER/backups is /backups, FOLDER/steps has the commands and takes their output.
# In a process namespace of its own, so that whatever is left running ends with it.
set -euo pipefail

folder=$1
room=$folder/room
mkdir "$room"
mount -t tmpfs -o mode=755 room "$room"
for entry in /*; do
    case $entry in
    /etc) cp -a /etc "$room" && continue ;; # LVM writes to it
    /backups | /home | /mnt | /opt | /proc | /root | /srv | /tmp | /var | /lost+found) continue ;;
    esac
    if [[ -L $entry ]]; then
        cp -a "$entry" "$room$entry"
    elif [[ -d $entry ]]; then
        mkdir "$room$entry"
        mount --rbind "$entry" "$room$entry"
    fi
done
cd "$room"
mkdir -p backups home mnt/view mnt/files opt/bin proc root srv/vmstore steps
mkdir -p var/lib/libvirt/images var/lock var/log var/tmp
mkdir -m 1777 tmp
ln -s /run var/run
mount -t proc proc proc
mount --bind "$folder/backups" backups
mount --bind "$folder/steps" steps
cp "$folder/qcowfs" opt/bin/
export PATH=/opt/bin:$PATH:/usr/sbin:/sbin HOME=/root TZ=UTC LC_ALL=C
unset TMPDIR
# Else LVM leaves the nodes of /dev/mapper to udev, which does not run in containers.
[[ -e /run/udev/control ]] || export DM_DISABLE_UDEV=1
exec chroot "$room" /bin/bash /steps/session.sh
