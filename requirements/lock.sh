#!/usr/bin/env bash
# Resolves pyproject.toml into one lock file for each kind of machine: run it as `make lock`.
#
# The same versions everywhere: cuda.lock is resolved first and binds the others. Wheels only, so that no machine
# builds anything from source. Resolved for the oldest Python, then tried with every later one: a version without a
# wheel there, or a requirement that only a later Python has, ends this script.
#
#   make lock               keeps every pin that still fits
#   make lock UPGRADE=1     takes the newest versions that pyproject.toml admits
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=0.13.9
oldest_python=3.11
later_pythons="3.12 3.13 3.14"

x86=x86_64-manylinux_2_28
arm=aarch64-manylinux_2_28
runtime=(pyproject.toml --extra training --overrides requirements/overrides.txt --excludes requirements/excludes.txt)
without_cuda=(--excludes requirements/excludes-cpu.txt --no-emit-package torch)
test_tools=(--group pyproject.toml:test)

main() {
    get_uv
    lock cuda "$x86" "${runtime[@]}"
    lock spark "$arm" "${runtime[@]}" --constraints requirements/cuda.lock
    lock cpu "$x86" "${runtime[@]}" "${without_cuda[@]}" --constraints requirements/cuda.lock
    # Another index has another build of torch without CUDA, and so another hash: pinned, but not hashed.
    grep -o '^torch==[^ ]*' requirements/cuda.lock >requirements/cpu-torch.txt
    lock test "$x86" "${test_tools[@]}" --constraints requirements/cuda.lock
    # Machines without a GPU and the test tools come in both architectures.
    try_again cpu "$arm" "$oldest_python" "${runtime[@]}" "${without_cuda[@]}"
    try_again test "$arm" "$oldest_python" "${test_tools[@]}"
}

# lock NAME PLATFORM ARGUMENT...
lock() {
    local name=$1 platform=$2 python
    shift 2
    resolve "$platform" "$oldest_python" "$@" --generate-hashes --emit-build-options ${UPGRADE:+--upgrade} \
        --output-file "requirements/$name.lock" --custom-compile-command "make lock"
    for python in $later_pythons; do
        try_again "$name" "$platform" "$python" "$@"
    done
    echo "requirements/$name.lock: $(grep -c == "requirements/$name.lock") packages"
}

# try_again NAME PLATFORM PYTHON ARGUMENT...: another machine finds all it needs in the lock.
try_again() {
    local name=$1 platform=$2 python=$3 missing
    shift 3
    resolve "$platform" "$python" "$@" --constraints "requirements/$name.lock" --output-file build/tried.txt
    missing=$(grep -o '^[^ ]*==[^ ]*' build/tried.txt | while read -r pin; do
        grep -q "^$pin " "requirements/$name.lock" || echo "$pin"
    done)
    if [ -n "$missing" ]; then
        echo "requirements/$name.lock lacks what Python $python on $platform needs:" $missing >&2
        echo "Name it in pyproject.toml, so that every machine gets it." >&2
        exit 1
    fi
}

# resolve PLATFORM PYTHON ARGUMENT...
resolve() {
    local platform=$1 python=$2
    shift 2
    build/uv/bin/uv pip compile --quiet --python-platform "$platform" --python-version "$python" --only-binary :all: \
        --no-emit-index-url "$@"
}

get_uv() {
    [ "$(build/uv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$uv_version" ] && return
    "${PYTHON:-python3}" -m venv --clear build/uv
    build/uv/bin/pip install --quiet "uv==$uv_version"
}

main
