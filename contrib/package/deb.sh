#!/usr/bin/env bash
# Builds the Debian package: program, mount helpers, manual pages, completions, systemd unit.
#
# Installs cargo-deb and what it needs if they are missing; prints the path of the package.
#
#   QCOWFS_NO_INSTALL=1   install nothing; a missing tool is an error
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

need dpkg-deb=dpkg dpkg-shlibdeps=dpkg-dev
need_cargo
if ! command -v cargo-deb >/dev/null; then
    [[ ${QCOWFS_NO_INSTALL:-0} != 1 ]] || die "missing, and QCOWFS_NO_INSTALL=1 is set: cargo-deb"
    say "installing cargo-deb"
    cargo install --locked cargo-deb@3.8.0
fi

cd "$repo"
target=${CARGO_TARGET_DIR:-$repo/target}
# What Cargo.toml lists as assets of the package.
parts=target/package
rm -rf "$parts"
mkdir -p "$parts"
# The links that mount(8) looks for.
ln -s ../bin/qcowfs "$parts/mount.qcowfs"
ln -s ../bin/qcowfs "$parts/mount.fuse.qcowfs"
cargo run --quiet --locked --example pages -- "$parts"
cargo build --release --locked
rm -f "$target"/debian/qcowfs_*.deb
cargo deb --locked --no-build --strip --quiet --output "$target/debian/"
printf '%s\n' "$target"/debian/qcowfs_*.deb
