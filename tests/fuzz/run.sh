#!/bin/sh
# Fuzzes one target, guided by coverage, with the kernels under AddressSanitizer and UBSan:
#     tests/fuzz/run.sh model|images|kernels|tables|sources|fields [seconds, default 60] [libFuzzer options]
# Needs clang with libomp, and the Python packages of wbcprof[test] and atheris. Grows the corpus in
# build-fuzz/corpus/TARGET, from the one stored; what fails is kept in build-fuzz/findings/TARGET-*,
# to be given again as
#     tests/fuzz/run.sh TARGET 0 build-fuzz/findings/TARGET-...
set -e
target=$1 seconds=${2:-60}
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/../.."
[ -d build-fuzz ] || CC=clang meson setup build-fuzz --buildtype=debugoptimized -Db_lundef=false \
    "-Dc_args=-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined" \
    -Dc_link_args=-fsanitize=address,undefined,fuzzer-no-link
ninja -C build-fuzz
package=build-fuzz/package
mkdir -p $package build-fuzz/findings
if [ ! -d "build-fuzz/corpus/$target" ]; then
    mkdir -p "build-fuzz/corpus/$target"
    longer=tests/fuzz/corpus/$target.tar.xz
    [ ! -f "$longer" ] || tar -xJf "$longer" -C "build-fuzz/corpus/$target"
fi
cp -r --remove-destination wbcprof build-fuzz/wbcprof/_*.abi3.so tests/*.py tests/model/*.py tests/fuzz $package
mv -f $package/_*.abi3.so $package/wbcprof
if [ "$seconds" -gt 0 ]; then
    [ ! -d "tests/fuzz/corpus/$target" ] || set -- "tests/fuzz/corpus/$target" "$@"
    set -- "build-fuzz/corpus/$target" "$@"
fi
export PYTHONPATH=$package OPENBLAS_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
LD_PRELOAD=$(python -c "import atheris; print(atheris.path())")/asan_with_fuzzer.so \
    exec python "$package/fuzz/fuzz_$target.py" -max_total_time="$seconds" -timeout=60 \
    -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/findings/$target-" "$@"
