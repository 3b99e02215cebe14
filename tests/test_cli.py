"""The command line as a person meets it: words, exit codes, and never a traceback."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import __version__, files
from appliance.commands.submit import SubmitError, submit
from appliance.files import rename_new
from appliance.job import Job, JobState, Outcome, Stage, Waiting, move
from appliance.store import Store

ROOT = Path(__file__).parents[1]
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


class Shell:
    """A folder in which commands are typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "recipes").mkdir()
        (folder / "recipes" / "demo.yaml").write_text("base_model: demo\n")

    def type(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *words],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def database(self, *jobs: Job) -> Store:
        (self.folder / "state").mkdir()
        store = Store(self.folder / "state" / "appliance.sqlite")
        for job in jobs:
            store.add_job(job)
        return store


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def a_job(state: JobState = JobState.QUEUED) -> Job:
    job = Job(7, "0007-support", "u", "support", JobState.QUEUED, 1_790_000_000.0)
    return job if state is JobState.QUEUED else move(move(job, JobState.RUNNING), state, finished=1_790_000_100.0)


def test_a_program_that_was_told_its_commit_says_it(tmp_path: Path):
    shutil.copytree(ROOT / "appliance", tmp_path / "appliance", ignore=shutil.ignore_patterns("__pycache__"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    for written, said, facts in ((f"{commit}\n", f"{__version__}, {commit[:12]}", commit), ("\n", __version__, "")):
        (tmp_path / "appliance" / "REVISION").write_text(written)
        command = [sys.executable, "-m", "appliance", "version"]
        assert subprocess.check_output(command, cwd=tmp_path, text=True).strip() == said
        assert json.loads(subprocess.check_output([*command, "--json"], cwd=tmp_path))["revision"] == facts


def test_every_command_says_what_it_does_with_an_example(shell: Shell):
    listed = shell.type("--help").stdout
    for command in ("serve", "demo", "check", "plan", "submit", "jobs", "show", "logs", "cancel", "doctor", "version"):
        assert command in listed
        assert f"Example: appliance {command}" in shell.type(command, "--help").stdout


def test_a_sound_dataset_and_recipe_are_said_to_be_sound(shell: Shell):
    done = shell.type("check", shell.write("a.jsonl", ROW), shell.write("a.yaml", "base_model: demo\n"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 row" in done.stdout
    assert "Not looked at: what the base model and this machine allow." in done.stdout
    assert "Not looked at" not in shell.type("check", "a.jsonl").stdout


def test_every_problem_is_listed_with_its_line_and_the_exit_code_is_two(shell: Shell):
    done = shell.type(
        "check", shell.write("a.jsonl", ROW + "nope\n"), shell.write("a.yaml", "base_model: demo\nlr: 1\n")
    )
    assert done.returncode == 2
    assert "a.jsonl:2:" in done.stderr
    assert "a.yaml:2:" in done.stderr
    assert "learning_rate" in done.stderr


def test_the_verdict_is_there_for_programs(shell: Shell):
    done = shell.type("check", "--json", shell.write("a.jsonl", "nope\n"))
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["usable"], facts["problems"][0]["line"]) == (2, False, 1)


def test_a_path_that_is_not_there_is_the_input_being_wrong(shell: Shell):
    done = shell.type("check", "nowhere.jsonl")
    assert done.returncode == 2
    assert "nowhere.jsonl is not a file" in done.stderr


def test_a_plan_is_a_bill_with_a_verdict(shell: Shell):
    done = shell.type("plan", shell.write("a.yaml", "base_model: demo\n"), "--memory", "128GB")
    assert done.returncode == 0
    assert "fits" in done.stdout
    plan = json.loads(shell.type("plan", "a.yaml", "--json").stdout)
    bill = {
        name: count
        for name, count in plan["memory"].items()
        if name not in ("total_bytes", "machine_bytes", "reserve_bytes")
    }
    assert sum(bill.values()) == plan["memory"]["total_bytes"]


def test_a_plan_that_does_not_fit_says_what_would(shell: Shell):
    done = shell.type("plan", shell.write("a.yaml", "base_model: demo\n"), "--memory", "1GB")
    assert done.returncode == 3
    assert "would fit" in done.stderr


def test_a_model_whose_shape_is_unknown_here_is_the_machine_not_being_ready(shell: Shell):
    done = shell.type("plan", shell.write("a.yaml", "base_model: demo\n"), "--memory", "much")
    assert (done.returncode, "--memory" in done.stderr) == (2, True)


@pytest.mark.parametrize("memory", ["0GB", "0.0000000001GB", f"{'9' * 400}GB", "1000000000GB"])
def test_a_memory_that_no_machine_has_is_refused(shell: Shell, memory: str):
    done = shell.type("plan", shell.write("a.yaml", "base_model: demo\n"), "--memory", memory)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"--memory is {memory}\nWrite it like 128GB.\n")


def test_jobs_without_an_appliance_say_where_there_is_none(shell: Shell):
    done = shell.type("jobs")
    assert done.returncode == 3
    assert "APPLIANCE_STATE" in done.stderr


def test_jobs_and_one_job_are_shown_to_people_and_programs(shell: Shell):
    store = shell.database(a_job())
    store.note(7, "taken_in", now=1_790_000_000.0, bytes=5)
    assert "0007-support" in shell.type("jobs").stdout
    assert json.loads(shell.type("jobs", "--json").stdout)[0]["state"] == "queued"
    assert "taken in" in shell.type("show", "7").stdout
    assert json.loads(shell.type("show", "0007-support", "--json").stdout)["events"][0]["event"] == "taken_in"


def test_each_job_is_one_line_of_a_pipe_and_show_has_the_rest(shell: Shell):
    shell.database(replace(a_job(JobState.FAILED), message="the loader failed\nat line 3 of its code"))
    assert [line.split()[0] for line in shell.type("jobs").stdout.splitlines()] == ["job", "0007-support"]
    assert "at line 3 of its code" in shell.type("show", "7", "--json").stdout


def test_a_dry_run_is_told_from_a_training(shell: Shell):
    waits = replace(a_job(), dry_run=True)
    ended = replace(waits, number=8, id="0008-web", uuid="v", state=JobState.SUCCEEDED, outcome=Outcome.CHECKED)
    shell.database(waits, ended)
    listed = shell.type("jobs").stdout.splitlines()
    assert listed[1].rstrip().endswith("checked: it can be trained on")
    assert listed[2].rstrip().endswith("only checked, not trained")
    assert "checked: it can be trained on" in shell.type("show", "8").stdout
    for number in "78":
        assert "only checked, not trained" in shell.type("show", number).stdout


def test_a_long_name_hides_nothing_of_the_other_columns(shell: Shell):
    waits = replace(a_job(), waiting=Waiting.MEMORY, waiting_detail="needs 44 GB, 31 GB are free")
    long = replace(waits, number=8, id=f"0008-{'long-' * 40}", uuid="v")
    shell.database(waits, long)
    terminal = shell.type("jobs", FORCE_COLOR="1", TERM="dumb", COLUMNS="80").stdout
    assert "0008-long-long" in terminal
    assert long.id not in terminal
    assert max(len(line.rstrip()) for line in terminal.splitlines()) <= 80
    assert terminal.count("waits for memory:") == 2
    piped = shell.type("jobs", COLUMNS="80").stdout.splitlines()
    assert [line.split()[0] for line in piped] == ["job", long.id, waits.id]
    assert all(line.rstrip().endswith("waits for memory: needs 44 GB, 31 GB are free") for line in piped[1:])


def test_a_paused_queue_needs_no_more_words(shell: Shell):
    shell.database(replace(a_job(), waiting=Waiting.PAUSED))
    assert shell.type("jobs").stdout.rstrip().endswith("waits because the queue is paused")


def test_a_job_that_is_none_is_said_to_be_none(shell: Shell):
    shell.database(a_job())
    for name in ("8", "9" * 25, f"{'9' * 25}-support"):
        done = shell.type("show", name)
        assert (done.returncode, f"there is no job {name}" in done.stderr) == (2, True)


def test_cancel_leaves_a_request_for_the_daemon(shell: Shell):
    store = shell.database(a_job())
    assert shell.type("cancel", "7").returncode == 0
    assert [(request.action, request.target) for request in store.requests()] == [("cancel", "7")]
    store.save(replace(a_job(), cancel_requested=True))
    again = shell.type("cancel", "7")
    assert (again.returncode, "is being stopped already" in again.stderr) == (2, True)


def test_cancel_names_the_outbox_that_is_set(shell: Shell):
    shell.database(a_job())
    done = shell.type("cancel", "7", APPLIANCE_OUTBOX="io")
    assert done.stdout == "job 0007-support will stop; its files come back in io/0007-support.cancelled\n"


def test_cancel_of_a_job_that_has_ended_comes_too_late(shell: Shell):
    shell.database(a_job(JobState.SUCCEEDED)).save(a_job(JobState.SUCCEEDED))
    done = shell.type("cancel", "7")
    assert (done.returncode, "ended already" in done.stderr) == (2, True)


def test_a_job_that_is_being_published_is_not_promised_to_stop(shell: Shell):
    publishing = move(a_job(), JobState.RUNNING, stage=Stage.PUBLISH, outcome=Outcome.SUCCEEDED)
    store = shell.database(publishing)
    done = shell.type("cancel", "7")
    assert (done.returncode, done.stdout, store.requests()) == (2, "", [])
    assert "too late to cancel job 0007-support: how it ends is settled (succeeded), and being published" in done.stderr


def test_submit_puts_whole_files_into_the_inbox(shell: Shell):
    (shell.folder / "inbox").mkdir()
    assert shell.type("submit", shell.write("a.jsonl", ROW), "--recipe", "demo").returncode == 0
    assert (shell.folder / "inbox" / "demo" / "a.jsonl").read_text() == ROW
    assert [path.name for path in (shell.folder / "inbox").rglob(".*")] == []
    again = shell.type("submit", "a.jsonl", "--recipe", "demo")
    assert (again.returncode, "there already" in again.stderr) == (2, True)


def test_submit_takes_no_two_files_of_one_name(shell: Shell):
    for folder in ("inbox", "d1", "d2"):
        (shell.folder / folder).mkdir()
    done = shell.type("submit", shell.write("d1/s.jsonl", ROW), shell.write("d2/s.jsonl", ROW * 2))
    assert (done.returncode, done.stdout) == (2, "")
    assert "d1/s.jsonl and d2/s.jsonl have one name" in done.stderr
    assert list((shell.folder / "inbox").iterdir()) == []


@pytest.mark.parametrize("name", ["x.jsonl.bak", ".hidden.jsonl", "x.jsonl~"])
def test_submit_refuses_a_name_that_the_inbox_ignores_for_ever(shell: Shell, name: str):
    (shell.folder / "inbox").mkdir()
    done = shell.type("submit", shell.write("a.jsonl", ROW), shell.write(name, ROW))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{name} is a name that the inbox ignores\nRename it.\n"
    assert list((shell.folder / "inbox").iterdir()) == []


def test_of_many_who_submit_one_name_at_once_one_gets_it_and_the_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("inbox").mkdir()
    together, told = threading.Barrier(16), []

    def submit_mine(number: int) -> None:
        mine = Path(str(number)) / "s.jsonl"
        mine.parent.mkdir()
        mine.write_text(f"{number}\n" * 100_000)
        together.wait()
        try:
            submit([mine], None)
            told.append((number, ""))
        except SubmitError as refusal:
            told.append((number, refusal.message))

    threads = [threading.Thread(target=submit_mine, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (first,) = [number for number, message in told if not message]
    assert {message for _, message in told} == {"", "inbox/s.jsonl is there already"}
    assert Path("inbox/s.jsonl").read_text() == f"{first}\n" * 100_000
    assert [path.name for path in Path("inbox").iterdir()] == ["s.jsonl"]


@pytest.mark.parametrize("flag", [files._REPLACE_NOTHING, 1 << 30], ids=["kernel knows", "kernel refuses"])
def test_a_renamed_file_replaces_nothing_not_even_a_link_that_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int
):
    # To a flag that it does not know the kernel says the same as to one that the file system does not.
    monkeypatch.setattr(files, "_REPLACE_NOTHING", flag)
    ours, there, link = tmp_path / "ours", tmp_path / "there", tmp_path / "link"
    ours.write_text("ours")
    there.write_text("there")
    link.symlink_to(tmp_path / "nowhere")
    for name in (there, link):
        with pytest.raises(FileExistsError):
            rename_new(ours, name)
    assert (there.read_text(), link.is_symlink()) == ("there", True)
    rename_new(ours, tmp_path / "new")
    assert (ours.exists(), (tmp_path / "new").read_text()) == (False, "ours")
    with pytest.raises(FileNotFoundError):
        rename_new(ours, tmp_path / "gone")


def test_submit_with_a_recipe_that_is_none_names_those_there_are(shell: Shell):
    (shell.folder / "inbox").mkdir()
    done = shell.type("submit", shell.write("a.jsonl", ROW), "--recipe", "lama")
    assert (done.returncode, "demo" in done.stderr) == (2, True)


def test_a_misspelt_setting_is_an_error(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("APPLIANCE_INBX", "x")
    done = shell.type("serve")
    assert (done.returncode, "APPLIANCE_INBOX" in done.stderr) == (2, True)


def test_logs_are_those_of_all_stages_in_order(shell: Shell):
    shell.database(a_job())
    for stage, text in (("train", "loss 1\n"), ("check", "fine\n")):
        folder = shell.folder / "state" / "jobs" / "0007-support" / stage
        folder.mkdir(parents=True)
        (folder / "stage.log").write_text(text)
    done = shell.type("logs", "7")
    assert (done.stdout, done.stderr) == ("── check\nfine\n── train\nloss 1\n", "")


def test_stages_that_have_printed_nothing_are_said_to_have_printed_nothing(shell: Shell):
    shell.database(a_job())
    folder = shell.folder / "state" / "jobs" / "0007-support" / "check"
    folder.mkdir(parents=True)
    (folder / "stage.log").touch()
    done = shell.type("logs", "7")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "job 0007-support: its stages have printed nothing\n"


def test_logs_that_were_tidied_away_are_said_to_be_gone(shell: Shell):
    shell.database(a_job()).save(a_job(JobState.FAILED))
    assert shell.type("logs", "7").stderr == "job 0007-support: its logs are gone\n"


def test_without_a_daemon_the_queue_is_paused_as_soon_as_one_runs(shell: Shell):
    store = shell.database(a_job())
    assert (
        shell.type("pause").stdout == "no new training starts until `appliance resume`, as soon as the appliance runs\n"
    )
    assert [request.action for request in store.requests()] == ["pause"]


def test_what_waits_for_something_else_is_not_approved(shell: Shell):
    store = shell.database(replace(a_job(), waiting=Waiting.NETWORK))
    done = shell.type("approve", "7")
    assert done.returncode == 2
    assert "job 0007-support does not wait for approval" in done.stderr
    assert "`appliance show 7`" in done.stderr
    assert store.requests() == []
