#!/usr/bin/env bash
# Fills .venv from the lock that fits this machine: run it as `make install`. With --test also the test tools.
#
# .venv/*.installed hold checksums of what was installed, so there is nothing to do the second time. A changed lock
# means a new .venv: it holds exactly what the lock says, never the leftovers of an older one.
#
#   LOCK=cpu|cuda|spark   another lock than the one found by looking
#   TORCH_INDEX=URL       where a machine without a GPU gets torch from (default: pip's own configuration)
#   PYTHON=python3.12     another Python
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
    local lock
    lock=${LOCK:-$(fitting_lock)}
    case $lock in
        cpu) install_once requirements requirements/cpu.lock requirements/cpu-torch.txt ;;
        cuda | spark) install_once requirements "requirements/$lock.lock" ;;
        *) fail "LOCK is '$lock'; it can be cpu, cuda or spark." ;;
    esac
    install_once project pyproject.toml
    if [ "${1:-}" = --test ]; then
        install_once test_tools requirements/test.lock
    fi
}

# install_once WHAT FILE...: calls install_WHAT unless that was done for these bytes of these files.
install_once() {
    local what=$1 wanted stamp
    shift
    stamp=.venv/$what.installed
    wanted=$(sha256sum "$@")
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null && return
    "install_$what" "$@" || fail "$* could not be installed; the reason stands above. make install tries again."
    echo "$wanted" >"$stamp"
}

install_requirements() {
    local lock=$1 torch=${2:-} python
    python=$(find_python) || exit
    echo "Installing $lock into .venv (a few minutes; LOCK=cpu|cuda|spark picks another)"
    "$python" -m venv --clear .venv && locked "$lock" || return
    [ -z "$torch" ] || install_torch "$torch"
}

# After the lock: what torch asks for is then there already, in the versions of the lock. A lock cannot hold torch's
# own hash here, since every index has another build without CUDA.
install_torch() {
    local index=()
    [ -z "${TORCH_INDEX:-}" ] || index=(--index-url "$TORCH_INDEX")
    echo "Installing $(cat "$1") from ${TORCH_INDEX:-the index that pip is configured with; TORCH_INDEX names another}"
    pip --no-warn-conflicts --requirement "$1" "${index[@]}"
}

install_project() {
    pip --no-deps --no-build-isolation --editable .
}

install_test_tools() {
    echo "Installing $1 into .venv"
    locked "$1"
}

locked() {
    pip --no-deps --require-hashes --requirement "$1"
}

# Errors only: a warning about an index that this machine is configured with helps nobody here.
pip() {
    .venv/bin/python -m pip -qq --disable-pip-version-check install "$@"
}

fitting_lock() {
    if ! [ -e /proc/driver/nvidia/version ] && ! nvidia-smi -L >/dev/null 2>&1; then
        echo cpu
    elif [ "$(uname -m)" = aarch64 ]; then
        echo spark
    else
        echo cuda
    fi
}

find_python() {
    local python version
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python cannot make virtual environments. On Debian and Ubuntu: sudo apt install python$version-venv"
        echo "$python"
        return
    done
    fail "Python 3.11 or newer is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>/dev/null || echo missing)." \
        "PYTHON=/path/to/python3 names another."
}

fail() {
    echo "make install: $*" >&2
    exit 1
}

main "$@"
