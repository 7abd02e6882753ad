# shellcheck shell=bash
# What demo.sh and test.sh share: installing what is missing, and finding cargo.

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Where ordinary users' PATH does not lead, but mkfs and its kind live.
PATH="$PATH:/usr/sbin:/sbin"
# Where rustup puts things. Before a distribution's cargo, which is older. (`~` is known without HOME.)
cargo_home=${CARGO_HOME:-~/.cargo}
PATH="$cargo_home/bin:$PATH"

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
    install_packages "${packages[@]}"
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || die "${pair%%=*} is still missing (package ${pair#*=})"
    done
}

install_packages() {
    may_install "$@"
    command -v apt-get >/dev/null || die "this is not Debian or Ubuntu; please install: $*"
    say "installing $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "$@" >/dev/null
}

may_install() {
    [[ ${QCOWFS_NO_INSTALL:-0} != 1 ]] || die "missing, and QCOWFS_NO_INSTALL=1 is set: $*"
}

# A compiler and what it links with: gcc comes without the C library's part of it.
need_linker() {
    can_link 2>/dev/null && return
    install_packages gcc libc6-dev
    can_link || die "cc cannot link a program (packages gcc and libc6-dev)"
}

can_link() { cc -x c -o /dev/null - <<<'int main(void) { return 0; }'; }

# Rust, with what it builds programs with.
need_cargo() {
    need_linker
    command -v cargo >/dev/null || install_rust
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
    found=$(cargo --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) = "$wanted" ]] ||
        die "$(command -v cargo) is $found, and $wanted or newer is needed: \`rustup update\`, or
remove the distribution's cargo and run this again"
}

# By rustup, as its own site does it, but no profile is changed.
install_rust() {
    may_install cargo
    need curl=curl
    # Debian's curl comes without them.
    if command -v apt-get >/dev/null && [[ ! -e /etc/ssl/certs/ca-certificates.crt ]]; then
        install_packages ca-certificates
    fi
    local rustup_home=${RUSTUP_HOME:-~/.rustup}
    say "installing Rust into $cargo_home and $rustup_home"
    fetch_rust || die "Rust could not be installed (into TMPDIR, where programs may run, and from there):
get it from https://rustup.rs, then run this again"
}

# In a shell of its own, which clears up behind it. Nothing ends by itself in what is asked for its
# success: so each step is tied to the one before.
fetch_rust() (
    triple=$(uname -m)-unknown-linux-gnu
    site=https://static.rust-lang.org/rustup/dist/$triple
    folder=$(mktemp -d) || exit
    trap 'rm -rf "$folder"' EXIT
    trap 'exit 130' INT TERM HUP
    cd "$folder" &&
        curl --proto '=https' --tlsv1.2 -sSf --remote-name-all "$site"/rustup-init{,.sha256} &&
        awk '{ print $1 "  rustup-init" }' rustup-init.sha256 | sha256sum --check --quiet &&
        chmod +x rustup-init &&
        ./rustup-init -q -y --no-modify-path --profile minimal -c rustfmt -c clippy
)

need_fuse() {
    [[ -e /dev/fuse ]] || as_root modprobe fuse 2>/dev/null || true
    [[ -e /dev/fuse ]] || die "there is no /dev/fuse here (in a container: start it with --device /dev/fuse)"
}
