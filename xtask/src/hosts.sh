# Runs cargo on the crate within the directory of a later Debian: hosts.sh DIRECTORY CRATE REGISTRY ARGUMENTS...
# The crate is read-only there; what is downloaded is shared with the cargo outside. Needs a mount namespace of its own.
set -e
root=$1 crate=$2 registry=$3
shift 3
mkdir -p "$root/crate" "$root/target" "$root/root/.cargo/registry" "$registry"
mount --bind -o ro "$crate" "$root/crate"
mount --bind "$registry" "$root/root/.cargo/registry"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/certificates.crt"
exec chroot "$root" env --chdir=/crate HOME=/root RUSTC_BOOTSTRAP=1 CARGO_HTTP_CAINFO=/etc/certificates.crt \
    CARGO_TARGET_DIR=/target cargo "$@"
