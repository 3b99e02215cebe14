#!/usr/bin/env bash
# Asks a vulnerability service about every locked package: part of `make check`. A known vulnerability fails it; a service
# that cannot be reached does not, and is said loudly. Asks once a day, again when a lock has changed, and each time while
# something vulnerable is locked. cpu.lock has no package that the others have not.
#
# requirements/audit-ignored.txt holds what was looked at and does not concern us: an identifier a line, `#` and why.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=build/audited
locks=(requirements/cuda.lock requirements/spark.lock requirements/test.lock)
ignored=requirements/audit-ignored.txt

main() {
    local state
    state="$(sha256sum "${locks[@]}" "$ignored")"
    mkdir -p build
    if [ -n "$(find "$stamp" -mtime -1 2>/dev/null)" ] && [ "$(tail -n +2 "$stamp")" = "$state" ]; then
        verdict "$(head -n 1 "$stamp")"
        return
    fi
    audit
    printf '%s\n%s\n' "$result" "$state" >"$stamp"
    verdict "$result"
}

# audit: `result` becomes "audited", "not audited: why" or "vulnerable".
audit() {
    local words=(--require-hashes --disable-pip --progress-spinner off --timeout 10 --format json) lock id
    for lock in "${locks[@]}"; do words+=(--requirement "$lock"); done
    while read -r id _; do
        case $id in '' | '#'*) ;; *) words+=(--ignore-vuln "$id") ;; esac
    done <"$ignored"
    # pip-audit ends with 1 when it has found something and when it could ask nobody: its answer tells which.
    timeout 300 .venv/bin/pip-audit "${words[@]}" >build/audit.json 2>build/audit.log || true
    result=$(.venv/bin/python requirements/audit_result.py build/audit.json)
}

verdict() {
    case $1 in
        audited*) ;;
        vulnerable)
            .venv/bin/python requirements/audit_result.py build/audit.json --list >&2
            rm -f "$stamp"
            exit 1
            ;;
        *) echo "*** $1" >&2 ;;
    esac
}

main
