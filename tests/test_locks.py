"""The lock files: complete, hashed, wheels only, and the same versions on every kind of machine."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MACHINES = ["cpu", "cuda", "spark"]
LOCKS = [*MACHINES, "test"]


def requirements(*names: str) -> list[Requirement]:
    return [Requirement(name) for name in names]


RUNTIME = requirements(
    *PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["training"]
)
TEST_TOOLS = requirements(*PYPROJECT["dependency-groups"]["test"])
BUILD = requirements(*PYPROJECT["build-system"]["requires"])


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.lock").read_text()


def pins(name: str) -> dict[str, str]:
    return {
        canonicalize_name(package): version
        for package, version in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", lock(name), re.MULTILINE)
    }


def unmet(wanted: list[Requirement], locked: dict[str, str]) -> list[str]:
    return [
        str(requirement)
        for requirement in wanted
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"), prereleases=True)
        or canonicalize_name(requirement.name) not in locked
    ]


@pytest.mark.parametrize("machine", MACHINES)
def test_a_lock_has_all_that_pyproject_asks_for(machine):
    # setuptools too: the project itself is installed with what is there.
    wanted = [*RUNTIME, *BUILD]
    if machine == "cpu":
        wanted = [requirement for requirement in wanted if requirement.name != "torch"]

    assert unmet(wanted, pins(machine)) == []


def test_the_test_tools_have_a_lock_of_their_own():
    assert unmet(TEST_TOOLS, pins("test")) == []
    assert "pytest" not in pins("cuda")


def test_all_locks_agree_on_versions():
    versions: dict[str, set[str]] = {}
    for name in LOCKS:
        for package, version in pins(name).items():
            versions.setdefault(package, set()).add(version)

    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_hashes_and_comes_as_a_wheel(name):
    lines = [line for line in lock(name).splitlines() if line.strip() and not line.lstrip().startswith("#")]

    assert lines[0] == "--only-binary :all:"
    for line in lines[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
    assert len(re.findall(r"==\S+ \\\n    --hash", lock(name))) == len(pins(name))


def test_a_machine_without_a_gpu_chooses_where_torch_comes_from():
    (torch,) = [str(requirement) for requirement in RUNTIME if requirement.name == "torch"]

    assert (ROOT / "requirements/cpu-torch.txt").read_text() == f"{torch}\n"
    assert [package for package in pins("cpu") if re.match("torch$|nvidia-(?!ml-py)|cuda-", package)] == []


@pytest.mark.parametrize("machine", MACHINES)
def test_no_lock_has_what_unsloth_refuses_to_run_beside(machine):
    assert {"torchvision", "xformers"} & set(pins(machine)) == set()


def test_the_spark_gets_the_cuda_13_build():
    assert "cu13" in " ".join(pins("spark"))
    assert pins("spark")["cuda-toolkit"].startswith("13.")


def test_what_runs_here_is_what_the_locks_say():
    locked = {**pins("cpu"), **pins("test")}
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions()}

    assert {package: installed.get(package) for package in locked} == locked


def test_the_licence_of_every_package_in_the_image_is_listed():
    listed = dict(re.findall(r"^\| ([\w.-]+) \| (\S+) \| \S", (ROOT / "docs/licences.md").read_text(), re.MULTILINE))
    locked = pins("spark")
    del listed["package"]
    assert set(pins("cuda")) | set(pins("cpu")) <= set(locked)

    # A package's own metadata may write a version with a zero more.
    assert {canonicalize_name(name): version.rstrip(".0") for name, version in listed.items()} == {
        name: version.rstrip(".0") for name, version in locked.items()
    }
    assert "unknown: look" not in (ROOT / "docs/licences.md").read_text()


@pytest.mark.parametrize(
    ("packages", "result"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], "audited"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}], "vulnerable"),
        ([{"name": "a", "skip_reason": "Dependency not found"}], "NOT AUDITED: the service"),
        (None, "NOT AUDITED: no vulnerability service"),
    ],
)
def test_an_audit_that_could_ask_nobody_is_not_taken_for_a_clean_one(tmp_path, packages, result):
    answer = tmp_path / "audit.json"
    answer.write_text("" if packages is None else json.dumps({"dependencies": packages}))

    said = subprocess.run(
        [sys.executable, ROOT / "requirements/audit_result.py", answer], capture_output=True, text=True, timeout=60
    )

    assert said.stdout.startswith(result)
