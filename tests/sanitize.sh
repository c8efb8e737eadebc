#!/bin/sh
# Builds the extension with AddressSanitizer and UBSan and runs the kernels' tests:
#     tests/sanitize.sh [pytest arguments]
set -e
cd "$(dirname "$0")/.."
[ -d build-sanitize ] || meson setup build-sanitize --buildtype=debugoptimized \
    -Db_sanitize=address,undefined -Db_lundef=false
ninja -C build-sanitize
mkdir -p build-sanitize/package
cp -r wbcprof tests pyproject.toml build-sanitize/package
cp build-sanitize/wbcprof/_*.abi3.so build-sanitize/package/wbcprof
cd build-sanitize/package
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so)" PYTHONPATH="$PWD"
python -c "import os, wbcprof._core as c; assert c.__file__.startswith(os.getcwd()), c.__file__"
exec python -m pytest -q "${@:-tests}"
