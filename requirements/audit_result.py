"""What came of pip-audit, from its JSON: `audited`, `NOT AUDITED: why` or `vulnerable`; with --list each of them."""

import json
import sys
from pathlib import Path


def main() -> None:
    try:
        packages = json.loads(Path(sys.argv[1]).read_text())["dependencies"]
    except (OSError, ValueError):
        print("NOT AUDITED: no vulnerability service can be reached from here (build/audit.log)")
        return
    vulnerable = [package for package in packages if package.get("vulns")]
    skipped = [package["name"] for package in packages if package.get("skip_reason")]
    if "--list" in sys.argv:
        for package in vulnerable:
            for found in package["vulns"]:
                fixed = ", ".join(found["fix_versions"]) or "no version yet"
                print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
        print("Raise it (CONTRIBUTING.md, Upgrading the stack), or say why not in requirements/audit-ignored.txt.")
    elif vulnerable:
        print("vulnerable")
    elif skipped:
        print(f"NOT AUDITED: the service that answers here knows nothing of {len(skipped)} of {len(packages)} packages")
    else:
        print("audited")


if __name__ == "__main__":
    main()
