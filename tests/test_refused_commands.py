"""What the operating system refuses a command: a sentence with what to do and exit code 3, no fault of ours."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.commands import check, demo, doctor, jobs, models, submit
from appliance.doctor.examine import examine
from appliance.settings import Settings
from appliance.store import DATABASE, Store
from tests.training_jobs import DEMO
from tests.users import not_as_root

# Imported by whoever may read them, for somebody who perhaps may not.
COMMANDS = (check, demo, doctor, jobs, models, submit)
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
# The mode of what `not_as_root` may not look into: as nobody, or as its owner.
CLOSED = 0 if os.geteuid() else 0o700

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an installation that others may read, and a model on its shelf."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("inbox", "outbox", "recipes", "state", "models"):
            (folder / part).mkdir(mode=0o755)
        (folder / "recipes" / "demo.yaml").write_text("base_model: demo\n")
        shutil.copytree(DEMO, folder / "models" / "org--tiny", copy_function=shutil.copyfile)
        Store(folder / "state" / DATABASE).close()
        (folder / "a.jsonl").write_text(ROW)
        monkeypatch.chdir(folder)
        yield folder
        for path in folder.iterdir():
            path.chmod(0o755)


@pytest.fixture
def as_nobody(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command as a user who is not root. Returns the exit code and what was said."""

    def type_it(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["appliance", *words])
        with not_as_root(), pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return type_it


@pytest.mark.parametrize(
    "words", [("jobs",), ("show", "1"), ("cancel", "1"), ("models", "list"), ("models", "remove", "org/tiny")]
)
def test_a_state_folder_that_is_closed_to_a_user_is_named_with_what_to_do(
    machine: Path, as_nobody: Type, words: tuple[str, ...]
):
    (machine / "state").chmod(CLOSED)
    code, out, said = as_nobody(*words)
    assert (code, out) == (3, "")
    assert said.startswith("state/")
    assert "Permission denied" in said
    assert "Let user" in said


def test_a_models_folder_that_is_closed_is_not_taken_for_empty(machine: Path, as_nobody: Type):
    (machine / "models").chmod(CLOSED)
    code, out, said = as_nobody("models", "list")
    assert (code, out) == (3, "")
    assert said.startswith("models: Permission denied\nLet user")


@pytest.mark.parametrize(
    "words", [("check", "closed/a.jsonl"), ("submit", "closed/a.jsonl"), ("models", "import", "closed/org--tiny")]
)
def test_a_file_in_a_folder_that_is_closed_to_a_user_is_named(machine: Path, as_nobody: Type, words: tuple[str, ...]):
    (machine / "closed").mkdir(mode=CLOSED)
    code, _, said = as_nobody(*words)
    assert (code, said.partition("\n")[0].split(": ")[1]) == (3, "Permission denied")
    assert said.startswith("closed/")


def test_an_inbox_that_a_user_may_not_write_is_named(machine: Path, as_nobody: Type):
    (machine / "inbox").chmod(0o555)
    code, _, said = as_nobody("submit", "a.jsonl", "--recipe", "demo")
    assert code == 3
    assert said.startswith("inbox/demo: Permission denied\nLet user")


def test_a_file_where_the_folder_of_a_recipe_should_be_is_named(machine: Path, as_nobody: Type):
    (machine / "inbox" / "demo").write_text("in the way")
    code, _, said = as_nobody("submit", "a.jsonl", "--recipe", "demo")
    assert code == 3
    assert said.startswith("inbox/demo")
    assert "Move away what" in said


def test_the_folders_of_a_demo_that_cannot_be_made_are_named(machine: Path, as_nobody: Type):
    (machine / "closed").mkdir(mode=0o555)
    code, _, said = as_nobody("demo", "--keep", "closed/x")
    assert (code, "closed/x: Permission denied" in said) == (3, True)
    code, _, said = as_nobody("demo", "--keep", "a.jsonl")
    assert (code, "a.jsonl/inbox: Not a directory\nMove away" in said) == (3, True)


def test_a_closed_state_folder_keeps_the_doctor_from_no_other_look(machine: Path):
    # Once as ourselves: what Python loads for it may lie where nobody may read.
    examine(Settings(), online=False)
    (machine / "state").chmod(CLOSED)
    with not_as_root():
        findings = examine(Settings(), online=False)
    assert {"memory", "versions"} <= {finding.check for finding in findings}
    assert [finding for finding in findings if "could not be looked at" in finding.message] == []
