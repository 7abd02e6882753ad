#!/usr/bin/env bash
# Builds the Debian package, installs it, uses each of its parts once, and removes it again.
#
# Prints a line for each thing that went well; ends with 0 only if all did. For root; installs what
# it needs on Debian and Ubuntu.
#
#   QCOWFS_NO_INSTALL=1   install no tools; a missing one is an error
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

[[ $(id -u) -eq 0 ]] || die "only root installs packages and mounts by fstab: run this as root"
need man=man-db mandoc=mandoc zsh=zsh fish=fish systemd-analyze=systemd mount.fuse3=fuse3 \
    zstd=zstd tar=tar setpriv=util-linux mountpoint=util-linux
need_fuse
if [[ -n $(dpkg-query -W -f '${db:Status-Status}' qcowfs 2>/dev/null) || -e /usr/bin/qcowfs ]]; then
    die "qcowfs is installed here already, and would be removed: \`dpkg -P qcowfs\` first"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/qcowfs-try.XXXXXX")
view=$work/view
root=$work/root
instance=try-$$
conf=/etc/qcowfs/$instance.conf
daemon=

cleanup() {
    local code=$?
    trap - EXIT INT TERM HUP
    [[ ! -d /run/systemd/system || ! -e $conf ]] || systemctl stop "qcowfs@$instance" || true
    [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
    if mountpoint -q "$view" 2>/dev/null; then
        umount -l "$view" || true
    fi
    rm -f "$conf"
    dpkg -P qcowfs >/dev/null 2>&1 || true
    # Whatever is still mounted must not be emptied.
    rm -rf --one-file-system "$work" || true
    [[ $code -eq 0 ]] || say "try: failed"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

done_well=0
ok() {
    say "ok: $*"
    done_well=$((done_well + 1))
}

# The view shows what it must show, and says how it is doing.
check_view() {
    mountpoint -q "$view" || die "$1: nothing is mounted"
    timeout 60 cmp "$view/vm-root.qcow2/latest/disk.img" "$work/wanted.raw" || die "$1: a wrong disk"
    timeout 60 qcowfs status "$view" >"$work/status" || die "$1: no status"
    grep -q 'with 8 restore points' "$work/status" || die "$1: the status is: $(<"$work/status")"
}

gone() {
    for _ in $(seq 100); do
        mountpoint -q "$view" || return 0
        sleep 0.1
    done
    die "$1: still mounted"
}

say "== building the package"
deb=$("$repo/contrib/package/deb.sh" | tail -n 1)
[[ -f $deb ]] || die "no package was built"
ok "built $(basename "$deb"), $(stat -c %s "$deb") bytes"

say "== installing it"
dpkg -i "$deb" >/dev/null
# Slim systems leave manual pages and documents away: what is in the package is looked at as well.
dpkg-deb -x "$deb" "$root"
qcowfs --version
ok "installed: $(dpkg -L qcowfs | wc -l) paths"
for name in mount.qcowfs mount.fuse.qcowfs; do
    [[ $(readlink -f "/usr/sbin/$name") = /usr/bin/qcowfs ]] || die "/usr/sbin/$name leads elsewhere"
    [[ -x /sbin/$name ]] || die "mount(8) looks for /sbin/$name, and it is not there"
done
ok "mount(8) finds its helpers"

say "== manual pages"
pages=0
for page in "$root"/usr/share/man/man[18]/*.gz; do
    gunzip -c "$page" >"$work/page"
    if ! grep -q '^\.so ' "$work/page"; then
        mandoc -T lint -W error "$work/page" || die "$page: mandoc finds errors"
        shown=$(MANWIDTH=100 LC_ALL=C.UTF-8 man --warnings -l "$work/page" 2>"$work/warnings")
        [[ ! -s $work/warnings ]] || die "$page: $(<"$work/warnings")"
        for title in NAME SYNOPSIS OPTIONS EXAMPLES 'EXIT STATUS' FILES 'SEE ALSO'; do
            grep -q "^$title" <<<"$shown" || die "$page has no $title"
        done
    fi
    pages=$((pages + 1))
done
[[ $pages -gt 10 ]] || die "only $pages manual pages"
ok "$pages manual pages, shown by man and without errors for mandoc"

say "== completions"
# shellcheck disable=SC2016
found=$(bash --norc -c '. "$1"; COMP_WORDS=(qcowfs res); COMP_CWORD=1
    _qcowfs qcowfs res qcowfs; printf "%s\n" "${COMPREPLY[@]}"' \
    bash "$root/usr/share/bash-completion/completions/qcowfs")
[[ $found = restore ]] || die "bash completes \`qcowfs res\` by: $found"
# shellcheck disable=SC2016
zsh -f -c 'fpath=("$1" $fpath); autoload -Uz compinit && compinit -u -d "$2"
    [[ ${_comps[qcowfs]} = _qcowfs ]] && autoload +X _qcowfs' \
    zsh "$root/usr/share/zsh/vendor-completions" "$work/zcompdump" || die "zsh does not know qcowfs"
found=$(HOME=$work fish -c "source $root/usr/share/fish/vendor_completions.d/qcowfs.fish
    complete -C 'qcowfs res'")
[[ $found = restore* ]] || die "fish completes \`qcowfs res\` by: $found"
ok "bash, zsh and fish complete it"

say "== mounting"
mkdir "$view"
tar --zstd -xSf "$repo/tests/data/qmpbackup-new.tar.zst" --no-same-owner -C "$work"
backups=$work/qmpbackup-new/backups
qcowfs restore -q "$backups" vm-root.qcow2@latest "$work/wanted.raw"
for kind in fuse.qcowfs qcowfs; do
    timeout 60 mount -t "$kind" -o noexec,auto_unmount "$backups" "$view"
    check_view "mount -t $kind"
    umount "$view"
    ok "mount -t $kind"
done
printf '%s %s fuse.qcowfs defaults,nofail,allow_other 0 0\n' "$backups" "$view" >"$work/fstab"
timeout 60 mount -T "$work/fstab" "$view"
check_view fstab
timeout 60 mount -T "$work/fstab" -a
[[ $(grep -c " $view fuse.qcowfs " /proc/mounts) = 1 ]] || die "\`mount -a\` mounted it twice"
ok "a line of fstab, and \`mount -a\` after it"
sed 's/^/    /' "$work/status"
ok "qcowfs status"
umount "$view"

say "== the service"
unit=/usr/lib/systemd/system/qcowfs@.service
# It looks for the pages that the unit names, which slim systems leave away.
MANPATH=$root/usr/share/man: systemd-analyze verify "$unit" 2>"$work/verify" || true
[[ ! -s $work/verify ]] || die "systemd-analyze verify: $(<"$work/verify")"
ok "systemd-analyze verify"
printf 'SOURCE=%s\nMOUNTPOINT=%s\nOPTIONS=allow_other\n' "$backups" "$view" >"$conf"
if [[ -d /run/systemd/system ]]; then
    systemctl start "qcowfs@$instance"
    check_view "systemctl start"
    kill -KILL "$(systemctl show -P MainPID "qcowfs@$instance")"
    for _ in $(seq 100); do
        qcowfs status "$view" >/dev/null 2>&1 && break
        sleep 0.1
    done
    check_view "a restart after SIGKILL"
    systemctl stop "qcowfs@$instance"
    gone "systemctl stop"
    ok "started, restarted after SIGKILL, stopped"
else
    say "no systemd runs here: its command line is run with its capabilities instead"
    # shellcheck disable=SC1090
    . "$conf"
    caps=$(sed -n 's/^CapabilityBoundingSet=//p' "$unit")
    bounds=-all
    for cap in ${caps,,}; do bounds+=",+${cap#cap_}"; done
    setpriv --no-new-privs --bounding-set "$bounds" /usr/bin/qcowfs mount --foreground \
        -o "$OPTIONS" -- "$SOURCE" "$MOUNTPOINT" &
    daemon=$!
    for _ in $(seq 300); do
        mountpoint -q "$view" && break
        sleep 0.1
    done
    check_view "the command line of the service"
    qcowfs umount --lazy -- "$view"
    wait "$daemon" || die "the service failed in the end"
    daemon=
    ok "the command line of the service, with its capabilities alone"
fi
rm -f "$conf"

say "== removing it"
dpkg -P qcowfs >/dev/null
for path in /usr/bin/qcowfs /usr/sbin/mount.qcowfs "$unit" /etc/qcowfs; do
    [[ ! -e $path && ! -L $path ]] || die "$path is left behind"
done
ok "removed, and nothing is left"
say "try: $done_well steps went well"
