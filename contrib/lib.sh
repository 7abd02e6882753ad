# shellcheck shell=bash
# What demo.sh and test.sh share: installing what is missing, and finding cargo.

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Where ordinary users' PATH does not lead, but mkfs and its kind live.
PATH="$PATH:/usr/sbin:/sbin"
[[ -z ${HOME:-} ]] || PATH="$PATH:$HOME/.cargo/bin"

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "not root and no sudo: please run as root: $*"
    fi
}

# need PROGRAM=PACKAGE...: installs the packages of the programs that are missing, all at once.
# With QCOWFS_NO_INSTALL=1 nothing is installed, and a missing program is an error.
need() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    [[ ${#packages[@]} -gt 0 ]] || return 0
    if [[ ${QCOWFS_NO_INSTALL:-0} = 1 ]]; then
        die "missing, and QCOWFS_NO_INSTALL=1 is set: ${packages[*]}"
    fi
    command -v apt-get >/dev/null || die "this is not Debian or Ubuntu; please install: ${packages[*]}"
    say "installing ${packages[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${packages[@]}" >/dev/null
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || die "${pair%%=*} is still missing (package ${pair#*=})"
    done
}

need_cargo() {
    command -v cargo >/dev/null || die "no cargo: get Rust from https://rustup.rs with
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
(Rust 1.95 or newer; Debian's own package is older), then run this again"
}

need_fuse() {
    [[ -e /dev/fuse ]] || as_root modprobe fuse 2>/dev/null || true
    [[ -e /dev/fuse ]] || die "there is no /dev/fuse here (in a container: start it with --device /dev/fuse)"
}
