"""A newer image takes over a running job of an older one; an older image leaves a newer database alone."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.container.engine import ROOT, WORK, Engine
from tests.container.stack import Stack
from tests.container.test_stack import LONG, number_of, rows

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

# What the image is built from, besides the source of the time.
RECIPE_OF_IMAGE = ("Dockerfile", ".dockerignore", "requirements", "recipes", "docs/licences.md")


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        pytest.skip(f"the history is not here: git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def schema_steps(text: str) -> int:
    """How many steps a version of store_schema.py takes a database through."""
    assigned = (node for node in ast.parse(text).body if isinstance(node, ast.Assign))
    steps = next(node.value for node in assigned if getattr(node.targets[0], "id", "") == "STEPS")
    assert isinstance(steps, ast.Tuple)
    return len(steps.elts)


def previous_schema() -> str:
    """The last commit before the schema was changed."""
    path = "appliance/store_schema.py"
    now = schema_steps((ROOT / path).read_text())
    for commit in git("log", "--format=%H", "--", path).split():
        if schema_steps(git("show", f"{commit}~1:{path}")) < now:
            return git("rev-parse", f"{commit}~1").strip()
    pytest.skip("the schema was never changed")


@pytest.fixture(scope="module")
def old_image(built: Engine) -> str:
    """The image of that commit: its source, with today's libraries."""
    commit = previous_schema()
    source = WORK / "old-source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    with subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", source], stdin=archive.stdout, check=True, timeout=60)
    for part in RECIPE_OF_IMAGE:
        (source / part).parent.mkdir(exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / part, source / part)
    version = commit[:12]
    arguments = ("--build-arg", "LOCK=cpu", "--build-arg", "PIP_OPTIONS=--no-index")
    built.docker("build", *arguments, "--tag", f"spark-appliance:{version}", source, timeout=1200)
    shutil.rmtree(source)
    return version


@pytest.fixture
def upgrade(built: Engine, old_image: str) -> Iterator[Stack]:
    """A stack of its own that runs the old image."""
    stack = Stack(built, name="upgrade")
    stack.remove()
    stack.lay_out()
    stack.set("IMAGE_VERSION", old_image)
    try:
        yield stack
    finally:
        stack.remove()
        built.run("image", "rm", f"spark-appliance:{old_image}")


def test_a_job_goes_on_under_the_next_version_and_the_old_one_leaves_it_alone(upgrade: Stack, old_image: str):
    upgrade.compose("up", "--detach", "appliance")
    upgrade.drop("long.jsonl", rows(120))
    upgrade.drop("long.yaml", LONG)
    upgrade.wait(lambda: number_of(upgrade, "long") == 1, "it is a job of the old version")
    upgrade.wait(lambda: upgrade.steps("0001-long"), "the training has begun")
    upgrade.compose("stop", "appliance", timeout=700)
    assert upgrade.inspect()["State"]["ExitCode"] == 0
    assert f"spark-appliance:{old_image}" == upgrade.inspect()["Config"]["Image"]

    upgrade.set("IMAGE_VERSION", "latest")
    upgrade.compose("up", "--detach", "--wait", "appliance")
    assert upgrade.inspect()["Config"]["Image"] == "spark-appliance:latest"
    starts = upgrade.wait(lambda: upgrade.starts("0001-long")[1:], "it goes on under the new version")
    assert starts[0]["attempt_step"] > 0
    assert upgrade.job(1)["state"] == "running"
    upgrade.compose("stop", "appliance", timeout=700)

    upgrade.set("IMAGE_VERSION", old_image)
    back = upgrade.compose("run", "--rm", "--no-deps", "appliance", check=False)
    said = back.stdout + back.stderr
    assert back.returncode == 3, said
    assert re.search("written by a newer appliance", said)
    assert "docs/upgrade.md" in said
