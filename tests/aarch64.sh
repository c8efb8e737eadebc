#!/bin/sh
# Cross-compiles the kernels for aarch64 and runs their tests on them under emulation:
#     tests/aarch64.sh [pytest arguments]
# Needs Debian or Ubuntu's gcc-aarch64-linux-gnu and qemu-user, and meson, ninja, cython, scipy.
# An aarch64 Python comes from the same archive, NumPy and pytest from PyPI, all into
# build-aarch64/root; the packages of this machine stay as they are.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/build-aarch64 root=$PWD/build-aarch64/root
[ -d "$out" ] || meson setup "$out" --cross-file tests/aarch64.ini
ninja -C "$out" wbcprof/_core.abi3.so

if [ ! -d "$root/site" ]; then
    mkdir -p "$out/apt/state/lists/partial" "$out/apt/cache/archives/partial"
    touch "$out/apt/status"
    set_apt="-o Dir::State=$out/apt/state -o Dir::State::status=$out/apt/status
        -o Dir::Cache=$out/apt/cache -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o Debug::NoLocking=1 -o APT::Sandbox::User=$(id -un) -qq"
    apt-get $set_apt update
    apt-get $set_apt install --yes --download-only --no-install-recommends python3 libgomp1 libstdc++6
    for package in "$out"/apt/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    version=$(basename "$(ls "$root"/usr/bin/python3.*[0-9])")
    python -m pip install -q --target "$root/site.new" --only-binary :all: \
        --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --platform any \
        --python-version "${version#python}" numpy pytest pytest-benchmark hypothesis safetensors
    mv "$root/site.new" "$root/site"
fi

package=$out/package
rm -rf "$package"
mkdir -p "$package"
cp -r wbcprof tests pyproject.toml "$package"
rm -f "$package"/wbcprof/*.so
cp "$out/wbcprof/_core.abi3.so" "$package/wbcprof"
# import wbcprof asks for the version of the installed package.
info=$package/wbcprof-0.dist-info
mkdir "$info"
printf 'Metadata-Version: 2.1\nName: wbcprof\nVersion: 0\n' > "$info/METADATA"
cd "$package"
export QEMU_LD_PREFIX="$root" PYTHONHOME="$root/usr" PYTHONPATH="$package:$root/site"
exec qemu-aarch64 "$(ls "$root"/usr/bin/python3.*[0-9])" -m pytest -q -p no:cacheprovider \
    "${@:-tests/model/test_encode_pool.py}"
