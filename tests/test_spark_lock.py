"""What the Spark's lock promises, asked of the package index: every wheel exists, for aarch64, with CUDA 13.

Nothing is installed, and of the wheels only metadata is downloaded.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import httpx
import pytest

LOCK = (Path(__file__).parents[1] / "requirements" / "spark.lock").read_text()
PINS = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))
# glibc 2.17 to 2.28, which the lock is resolved for; a Spark has 2.39. The first is an older name of 2.17.
PLATFORMS = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 29))]
TAIL_BYTES = 1 << 16


@pytest.fixture(scope="module")
def wheels() -> dict[str, dict]:
    """pip's report of what it would install on a Spark, by package."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        pins, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        pins.write_text("".join(f"{name}=={version}\n" for name, version in PINS.items()))
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"),
            *("--only-binary", ":all:", *platforms, "--implementation", "cp", "--python-version", "3.11"),
            *("--target", folder, "--requirement", str(pins), "--report", str(report)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        if re.search(r"NewConnectionError|NameResolutionError|ReadTimeout|ConnectTimeout", done.stderr):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr
        return {entry["metadata"]["name"].lower(): entry for entry in json.loads(report.read_text())["install"]}


def test_every_wheel_of_the_lock_exists_for_aarch64_and_is_the_one_that_was_locked(wheels):
    assert len(wheels) == len(PINS) > 100
    for name, wheel in wheels.items():
        url, archive = wheel["download_info"]["url"], wheel["download_info"]["archive_info"]
        assert url.endswith(("aarch64.whl", "none-any.whl")), url
        assert f"--hash=sha256:{archive['hashes']['sha256']}" in LOCK, name


def test_torch_is_the_cuda_13_build(wheels):
    wanted = " ".join(wheels["torch"]["metadata"]["requires_dist"])
    assert re.search(r"cuda-toolkit\[.*?\]==13\.", wanted)
    assert "nvidia-cudnn-cu13" in wanted


def test_bitsandbytes_carries_the_library_for_cuda_13_0(wheels, tmp_path):
    names = list_wheel(wheels["bitsandbytes"]["download_info"]["url"], tmp_path / "wheel")
    assert "bitsandbytes/libbitsandbytes_cuda130.so" in names


def list_wheel(url: str, path: Path) -> list[str]:
    """The names in a wheel of which only the end is downloaded: a zip file's list of contents stands there."""
    if url.startswith("file:"):
        return zipfile.ZipFile(Path(httpx.URL(url).path)).namelist()
    answer = httpx.get(url, headers={"Range": f"bytes=-{TAIL_BYTES}"}, timeout=60)
    answer.raise_for_status()
    with path.open("wb") as file:
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            file.seek(int(answer.headers["Content-Range"].rpartition("/")[2]) - len(answer.content))
        file.write(answer.content)
    return zipfile.ZipFile(path).namelist()
