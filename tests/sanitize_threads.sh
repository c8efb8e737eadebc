#!/bin/sh
# Builds the extension with ThreadSanitizer and runs the tests of threads; a data race fails:
#     tests/sanitize_threads.sh [pytest arguments]
# Needs clang with libomp, whose tool Archer tells ThreadSanitizer what OpenMP synchronises; GCC's
# libgomp has nothing like it.
set -e
cd "$(dirname "$0")/.."
[ -d build-threads ] || CC=clang meson setup build-threads --buildtype=debugoptimized \
    -Db_sanitize=thread -Db_lundef=false
ninja -C build-threads
mkdir -p build-threads/package
cp -r wbcprof tests pyproject.toml build-threads/package
cp build-threads/wbcprof/_*.abi3.so build-threads/package/wbcprof
archer=$(clang -print-resource-dir)/../../libarcher.so
[ -f "$archer" ] || { echo "no Archer beside libomp: expected libarcher.so" >&2; exit 1; }
cd build-threads/package
here="import os, wbcprof._core as c; assert c.__file__.startswith(os.getcwd()), c.__file__"
export OMP_TOOL_LIBRARIES="$archer" OMP_TOOL=enabled PYTHONPATH="$PWD" OPENBLAS_NUM_THREADS=1
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66
runtime=$(gcc -print-file-name=libtsan.so) # that of clang cannot be loaded into a foreign program
[ $# -gt 0 ] || set -- -k "threads or every_instruction_set" tests/test_minimal.py \
    tests/model/test_encode_pool.py tests/model/test_encoder.py tests/model/test_sparse.py tests/learning/test_psd.py
python="setarch -R env LD_PRELOAD=$runtime python"
$python -c "$here"
exec $python -m pytest -q --capture=sys "$@"
