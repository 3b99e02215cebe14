"""Writes docs/licences.md: the licence of every package that an image holds, by its own metadata. Part of `make lock`.

The metadata is the index's, for the Spark's lock, which has all that the other images have and CUDA besides.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLATFORMS = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 29))]

# Read in the packages' own files where their metadata says nothing.
READ = {
    "cuda-toolkit": "a list of NVIDIA's packages, whose terms stand with them",
    "cut-cross-entropy": "Apple Sample Code License (LICENSE in the package)",
    "hf_transfer": "Apache-2.0 (its repository)",
    "torchao": "BSD-3-Clause (LICENSE in the package)",
}

HEAD = """# Licences of what the image holds

Made by `make lock` from what each package says of itself; the texts lie in the image, in each package's own
`*.dist-info` folder. Versions are those of `requirements/spark.lock`; the other locks hold the same or less. NOTICE
says what is kept apart and why: unsloth and unsloth_zoo also contain files under AGPL-3.0-only. NVIDIA's libraries are
under NVIDIA's own terms; read them, and NOTICE, before you pass an image on.

Besides these: Debian with Python, GCC's C compiler and the C library (`/usr/share/doc/*/copyright` in the image), in
the share's image Samba (GPL-3.0-or-later), and as images of their own Prometheus (Apache-2.0) and Grafana
(AGPL-3.0-only), both unmodified.

| package | version | licence |
|---|---|---|
"""


def main() -> None:
    rows = [
        f"| {meta['name']} | {meta['version']} | {licence(meta)} |"
        for meta in sorted(metadata(), key=lambda meta: meta["name"].lower())
    ]
    (ROOT / "docs" / "licences.md").write_text(HEAD + "\n".join(rows) + "\n")
    print(f"docs/licences.md: {len(rows)} packages")


def metadata() -> list[dict[str, Any]]:
    """What the index says of every package of the lock. Only metadata is downloaded."""
    lock = (ROOT / "requirements" / "spark.lock").read_text()
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        pins.write_text("\n".join(re.findall(r"^[a-z0-9-]+==[^ ]+", lock, re.MULTILINE)))
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"),
            *("--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11", "--target", folder),
            *(word for platform in PLATFORMS for word in ("--platform", platform)),
            *("--requirement", str(pins), "--report", str(report)),
        ]
        subprocess.run(command, check=True, timeout=900, stderr=subprocess.DEVNULL)
        return [entry["metadata"] for entry in json.loads(report.read_text())["install"]]


def licence(meta: dict[str, Any]) -> str:
    """The expression, else the classifiers, else the first line of the free text."""
    if expression := meta.get("license_expression"):
        return str(expression)
    found = [name.rpartition(" :: ")[2] for name in meta.get("classifier", ()) if name.startswith("License :: ")]
    text = (meta.get("license") or "").strip().splitlines()
    if found and found != ["OSI Approved"]:
        return ", ".join(found)
    return (
        text[0][:80]
        if text
        else READ.get(meta["name"], "says nothing: look, and write it into requirements/licences.py")
    )


if __name__ == "__main__":
    main()
