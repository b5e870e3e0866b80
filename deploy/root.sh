#!/bin/sh
# root.sh DIR: write a minimal root file system for /opt/venv to DIR: Python, the shared libraries that Python and the packages
# load, certificates, time zones, the users. No shell, no package manager, no set-uid program.
set -eu
root=$1
python=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')

mkdir -p "$root/etc" "$root/usr/lib" "$root/usr/lib64" "$root/usr/local/bin" "$root/usr/local/lib" "$root/usr/share" "$root/opt" "$root/run/secrets"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
install -d -m 1777 "$root/tmp"

# Python without the parts that no container runs.
cp -a /usr/local/bin/python /usr/local/bin/python3* "$root/usr/local/bin"
rm -f "$root"/usr/local/bin/*-config
cp -a /usr/local/lib/libpython*.so* "$root/usr/local/lib"
cp -a "$python" "$root/usr/local/lib"
cd "$root$python"
rm -rf config-* ensurepip idlelib lib2to3 pydoc_data site-packages/* test tkinter turtledemo lib-dynload/_tk* lib-dynload/_test*

# Shared libraries outside the packages: those that ldd finds, and those that glibc loads when a thread is cancelled. A missing
# library ends the build.
find "$root/usr/local" /opt/venv -type f \( -name '*.so' -o -name '*.so.*' -o -name 'python3*' \) -exec ldd {} + >/tmp/ldd
if grep 'not found' /tmp/ldd; then exit 1; fi
{
  awk '$2 == "=>" { print $3 } $1 ~ "^/lib.*/ld-linux" { print $1 }' /tmp/ldd
  ldconfig -p | awk '$1 == "libgcc_s.so.1" { print $NF; exit }'
} | grep -E '^/(usr/)?lib' | sort -u | while read -r library; do
  install -D "$library" "$root/$(realpath "${library%/*}")/${library##*/}"
done
cp -a /etc/ld.so.conf /etc/ld.so.conf.d "$root/etc"
ldconfig -r "$root"

cp -a /etc/ssl /etc/passwd /etc/group /etc/nsswitch.conf /etc/os-release "$root/etc"
cp -a /usr/lib/ssl "$root/usr/lib"
cp -a /usr/share/ca-certificates /usr/share/zoneinfo "$root/usr/share"
