"""`appliance doctor`, and the look at the machine when the appliance starts."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import surroundings
from appliance.doctor import earlyoom, gpu
from appliance.doctor import examine as examination
from appliance.doctor.earlyoom import threshold_bytes
from appliance.doctor.examine import NotHealthyError, examine, examine_at_start
from appliance.doctor.finding import Finding, Level
from appliance.doctor.gpu import driver_finding
from appliance.doctor.unwritable import what_mends
from appliance.settings import Settings
from tests.small_disk import small_disk
from tests.users import not_as_root

ROOT = Path(__file__).parents[1]
FOLDERS = ("inbox", "outbox", "state", "models", "recipes")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which everything is as it should be, but for a GPU. Others may look into it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in FOLDERS:
            (folder / part).mkdir()
            (folder / part).chmod(0o777)
        (folder / "recipes" / "default.yaml").write_text("base_model: demo\n")
        monkeypatch.chdir(folder)
        yield folder


def settings(**values: object) -> Settings:
    small = {"disk_reserve_gb": 0, "memory_reserve_gb": 0, "api_token": "t" * 20}
    return Settings(**{**small, **values})  # type: ignore[arg-type]


def found(check: str, **values: object) -> list[Finding]:
    return [finding for finding in examine(settings(**values), online=False) if finding.check == check]


def doctor(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Nothing listens there: what is said of the Hub does not depend on the network that the tests run in.
    quiet = {
        "APPLIANCE_DISK_RESERVE_GB": "0",
        "APPLIANCE_MEMORY_RESERVE_GB": "0",
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "doctor", *words],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_a_sound_machine_is_ready(machine: Path):
    done = doctor(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ folder:inbox" in done.stdout
    assert "✗" not in done.stdout


def test_programs_get_every_finding_with_its_remedy(machine: Path):
    (machine / "recipes" / "default.yaml").unlink()
    done = doctor(machine, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ready"]) == (3, False)
    assert {"check", "level", "message", "remedy", "stops", "facts"} == set(answer["checks"][0])
    for finding in answer["checks"]:
        # Without a GPU there is nothing to mend.
        assert finding["check"] == "gpu" or (finding["remedy"] is None) == (finding["level"] == "ok"), finding


def test_looking_leaves_nothing_behind(machine: Path):
    for name in ("inbox", "outbox", "state", "models"):
        (machine / name).rmdir()
    assert doctor(machine).returncode == 0
    assert [path.name for path in machine.iterdir()] == ["recipes"]


@pytest.mark.parametrize("name", ["inbox", "outbox", "state"])
def test_a_folder_that_cannot_be_written_stops_the_start_with_the_command_that_mends_it(machine: Path, name: str):
    (machine / name).chmod(0o555)
    with not_as_root():
        with pytest.raises(NotHealthyError) as refusal:
            examine_at_start(settings())
        me = f"{os.geteuid()}:{os.getegid()}"
    assert f"{name} {machine / name} cannot be written by user" in refusal.value.message
    assert str(refusal.value.hint) == f"sudo chown {me} {machine / name}"


def test_what_lies_in_a_folder_is_given_to_us_with_it_only_where_an_appliance_worked_in_it(machine: Path):
    for name, mark in (("inbox", ".appliance"), ("outbox", "STATUS.md"), ("state", "appliance.sqlite")):
        (machine / name / mark).touch()
        (machine / name).chmod(0o555)
    with not_as_root(), pytest.raises(NotHealthyError) as refusal:
        examine_at_start(settings())
    assert [line.split()[:3] for line in str(refusal.value.hint).splitlines()] == [["sudo", "chown", "-R"]] * 3


def test_a_folder_that_cannot_be_made_is_made_by_the_command_and_nothing_above_it_changes_hands(machine: Path):
    (machine / "files").mkdir(mode=0o755)
    with not_as_root():
        with pytest.raises(NotHealthyError) as refusal:
            examine_at_start(settings(outbox=machine / "files" / "outbox"))
        me = f"-o {os.geteuid()} -g {os.getegid()}"
    assert str(refusal.value.hint) == f"sudo install -d {me} {machine / 'files' / 'outbox'}"


def test_where_a_folder_above_may_not_be_entered_that_is_what_is_said(machine: Path):
    (machine / "home" / "outbox").mkdir(parents=True)
    (machine / "home").chmod(0o700)
    with not_as_root():
        (outbox,) = found("folder:outbox", outbox=machine / "home" / "outbox")
    assert f"enter {machine / 'home'}" in str(outbox.remedy)
    assert "chown" not in str(outbox.remedy)


def test_a_folder_of_ours_is_not_given_to_us_again(machine: Path):
    with not_as_root():
        (machine / "inbox" / "mine").mkdir(mode=0o555)
        (inbox,) = found("folder:inbox", inbox=machine / "inbox" / "mine")
    assert inbox.remedy == f"chmod u+rwx {machine / 'inbox' / 'mine'}"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EPERM, "lsattr -d"),
        (errno.EROFS, "findmnt -T"),
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EIO, "choose another folder with APPLIANCE_OUTBOX"),
        (errno.ENOTDIR, "choose another folder with APPLIANCE_OUTBOX"),
    ],
)
def test_what_is_not_a_matter_of_ownership_is_not_mended_with_it(machine: Path, number: int, advice: str):
    remedy = what_mends("outbox", machine / "outbox", OSError(number, os.strerror(number)))
    assert advice in remedy
    assert "chown" not in remedy


def test_serve_says_what_is_amiss_and_does_not_start_where_it_cannot_work(machine: Path):
    # Not even root can write below /proc.
    environment = {**os.environ, "APPLIANCE_OUTBOX": "/proc/1"}
    command = [sys.executable, "-m", "appliance", "serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "ERROR folder:outbox: outbox /proc/1 cannot be written by user" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("choose another folder with APPLIANCE_OUTBOX")


def test_inside_our_image_the_command_is_one_for_the_host(machine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(surroundings.IMAGE, "1")
    assert surroundings.give(machine / "inbox", recursive=True).endswith(
        f"compose.yaml: sudo chown -R {os.geteuid()}:{os.getegid()} inbox"
    )
    assert surroundings.give(Path("/run/secrets/api_token")).endswith(" secrets/api_token")
    # A volume has no folder on the host.
    assert "--volume spark-appliance_state:/state" in surroundings.give(machine / "state", recursive=True)


def test_a_sticky_inbox_of_somebody_else_would_never_let_go_of_a_drop(machine: Path):
    (machine / "inbox").chmod(0o1777)
    assert [finding.level for finding in found("folder:inbox")] == [Level.OK]
    with not_as_root():
        (_, sticky) = found("folder:inbox")
    assert (sticky.level, sticky.stops) == (Level.PROBLEM, True)
    assert "chmod -t" in str(sticky.remedy)


def test_a_full_disk_is_a_problem_that_does_not_stop_the_start(machine: Path):
    (disk,) = found("disk", disk_reserve_gb=10**6)
    assert (disk.level, disk.stops) == (Level.PROBLEM, False)
    assert "kept in reserve" in disk.message
    examine_at_start(settings(disk_reserve_gb=10**6))


def test_the_default_reserve_is_no_problem_of_a_small_disk(machine: Path):
    with small_disk(machine / "models", 64 * 10**6):
        disks = [one for one in examine(Settings(), online=False) if one.facts.get("folders") == ["models"]]
    assert [disk.level for disk in disks] == [Level.OK]


def test_of_memory_that_no_gpu_shares_an_eighth_is_reserve_enough(machine: Path):
    (memory, *_) = found("memory", memory_reserve_gb=10**6)
    assert memory.level is Level.OK


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [
        ("", 12.8),
        ('# EARLYOOM_ARGS="-m 2"\n', 12.8),
        ('EARLYOOM_ARGS="-r 3600"\n', 12.8),
        ("EARLYOOM_ARGS=\"-m 2 -s 100 --prefer '(python3?)'\"\n", 2.56),
        ("EARLYOOM_ARGS=-m5,2 -p\n", 6.4),
        ("EARLYOOM_ARGS='-M 3000000,1000000'", 3.072),
        ('EARLYOOM_ARGS="-m 10 -M 1000000"', 1.024),
        ('EARLYOOM_ARGS="-m 10"\nEARLYOOM_ARGS="-gm 1"\n', 1.28),
        ('EARLYOOM_ARGS="--dryrun -m 10"', None),
        ('EARLYOOM_ARGS="--newer-than-this"', None),
        ('EARLYOOM_ARGS="-m much"', None),
        ('EARLYOOM_ARGS="--avoid \'(sshd"', None),
    ],
)
def test_when_earlyoom_acts_stands_in_its_arguments(text: str, gigabytes: float | None):
    found = threshold_bytes(text, 128 * 10**9)
    assert found == (None if gigabytes is None else pytest.approx(gigabytes * 10**9))


def test_an_earlyoom_that_acts_before_the_guard_is_warned_of(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(earlyoom, "DEFAULTS", tmp_path / "earlyoom")
    assert found("earlyoom") == []
    (tmp_path / "earlyoom").write_text('EARLYOOM_ARGS="-r 3600"\n')
    (early,) = found("earlyoom")
    assert early.level is Level.WARNING
    assert "would end trainings that fit" in early.message
    assert "container/host/earlyoom" in str(early.remedy)
    # The host's file is another one than that of the image.
    monkeypatch.setenv(surroundings.IMAGE, "1")
    assert found("earlyoom") == []


def test_the_earlyoom_that_the_guide_sets_up_leaves_trainings_to_the_guard(
    machine: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(earlyoom, "DEFAULTS", ROOT / "container" / "host" / "earlyoom")
    assert [finding.level for finding in found("earlyoom")] == [Level.OK]
    guide = (ROOT / "docs" / "install.md").read_text()
    copied = guide.index("sudo cp container/host/earlyoom /etc/default/earlyoom")
    assert copied < guide.index("earlyoom.service") < guide.index("sudo systemctl restart earlyoom.service")


def test_a_recipe_that_cannot_be_read_is_named(machine: Path):
    (machine / "recipes" / "broken.yaml").write_text("base_model: demo\nlora: 3\n")
    (recipe,) = found("recipes")
    assert recipe.level is Level.WARNING
    assert "broken.yaml" in recipe.message


def test_beyond_loopback_the_pages_need_a_read_token(machine: Path):
    assert [finding.level for finding in found("secrets")] == [Level.OK]
    (secret,) = found("secrets", listen="0.0.0.0:8080")
    assert "read token" in secret.message
    assert "make secrets" in str(secret.remedy)


def test_a_secret_in_the_environment_belongs_into_a_file(machine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("APPLIANCE_HUB_TOKEN", "hf_" + "x" * 30)
    secret, *_ = found("secrets")
    assert secret.level is Level.WARNING
    assert "APPLIANCE_HUB_TOKEN_FILE=" in str(secret.remedy)


def test_settings_that_cannot_be_used_are_a_finding(machine: Path):
    done = doctor(machine, APPLIANCE_API_TOKEN_FILE="secrets/api_token")
    assert done.returncode == 3
    assert "secrets/api_token, which cannot be read" in done.stdout
    assert "→ make secrets" in done.stdout


def test_a_check_that_stumbles_is_a_finding_and_keeps_no_other_from_its_say(
    machine: Path, monkeypatch: pytest.MonkeyPatch
):
    def check_weather(_settings: Settings) -> Iterator[Finding]:
        raise RuntimeError("it rains")

    monkeypatch.setattr(examination, "LOCAL", (check_weather, *examination.LOCAL))
    first, second, *_ = examine(settings(), online=False)
    assert (first.check, first.message) == ("weather", "this could not be looked at: it rains")
    assert second.check == "folder:inbox"


def test_online_checks_are_for_doctor_and_not_for_the_start(machine: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Settings] = []

    def check_hub(given: Settings) -> tuple[Finding, ...]:
        asked.append(given)
        return ()

    monkeypatch.setattr(examination, "ONLINE", (check_hub,))
    examine_at_start(settings())
    assert asked == []
    examine(settings(), online=True)
    assert len(asked) == 1


@pytest.mark.parametrize(("driver", "cuda", "level"), [("580.95.05", 13000, Level.OK), ("610.1", 13020, Level.OK)])
def test_a_driver_that_brings_cuda_13_will_do(driver: str, cuda: int, level: Level):
    assert driver_finding(driver, cuda).level is level


def test_an_older_driver_is_named_with_the_command_that_updates_it():
    finding = driver_finding("570.133.20", 12080)
    assert finding.message == (
        "the NVIDIA driver 570.133.20 (CUDA 12.8) is too old: 580 (CUDA 13.0) or newer is needed"
    )
    assert "sudo apt" in str(finding.remedy)


def test_a_card_that_is_plugged_in_and_does_not_answer_is_a_problem(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    card = tmp_path / "pci" / "000f:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    if gpu._card_is_plugged_in():
        pytest.skip("this machine has an NVIDIA GPU")
    (none,) = found("gpu")
    assert (none.level, none.remedy, "fine for the demo" in none.message) == (Level.WARNING, None, True)
    monkeypatch.setattr(gpu, "PCI", tmp_path / "pci")
    assert [finding.level for finding in found("gpu")] == [Level.PROBLEM]
    monkeypatch.setenv(surroundings.IMAGE, "1")
    (given,) = found("gpu")
    assert "nvidia-ctk" in str(given.remedy)


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a management library that answers as it is told."""
    folder = tmp_path_factory.mktemp("nvml")
    source, library = ROOT / "tests" / "fake_nvml.c", folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return folder


def with_gpu(machine: Path, nvml: Path, **answers: str) -> dict[str, dict]:
    environment = {"DRIVER": "580.95.05", "CUDA": "13000", "CAPABILITY": "12", **answers}
    answer = json.loads(doctor(machine, "--json", LD_LIBRARY_PATH=str(nvml), **environment).stdout)
    return {finding["check"]: finding for finding in answer["checks"]}


def test_a_spark_s_gpu_is_named_although_it_does_not_tell_its_memory(machine: Path, nvml: Path):
    checks = with_gpu(machine, nvml)
    assert checks["gpu"]["message"] == "NVIDIA GB10"
    assert checks["gpu"]["facts"]["capability"] == "12.1"
    assert checks["driver"]["message"] == "NVIDIA driver 580.95.05, CUDA 13.0"


def test_a_gpu_too_old_and_a_driver_too_old_are_two_problems(machine: Path, nvml: Path):
    checks = with_gpu(machine, nvml, CAPABILITY="6", DRIVER="535.1", CUDA="12020")
    assert [checks[name]["level"] for name in ("gpu", "driver")] == ["problem", "problem"]


def test_a_gpu_beside_a_torch_without_cuda_is_a_problem(machine: Path, nvml: Path):
    checks = with_gpu(machine, nvml)
    assert (checks["versions"]["level"], checks["versions"]["remedy"]) == ("problem", "make install")


@pytest.mark.parametrize(
    ("name", "place", "reason"),
    [
        ("outbox", "inbox", "outbox and inbox are one folder"),
        ("outbox", "inbox/results", "would be taken in as a drop"),
        ("state", "inbox/a/b", "would be taken in as a drop"),
        ("models", "inbox/models", "would be taken in as a drop"),
        ("recipes", "inbox/recipes", "would be taken in as a drop"),
        ("state", "outbox", "outbox and state are one folder"),
        ("state", "outbox/state", "could read and change the database"),
        ("models", "state", "state and models are one folder"),
        ("inbox", "state/incoming", "keeps for itself"),
        ("outbox", "state/jobs/results", "keeps for itself"),
        ("models", "state/jobs", "keeps for itself"),
        # By another way.
        ("outbox", "link", "outbox and inbox are one folder"),
        ("outbox", "link/results", "would be taken in as a drop"),
    ],
)
def test_a_folder_in_the_way_of_another_stops_the_start_and_is_named(machine: Path, name: str, place: str, reason: str):
    (machine / "link").symlink_to(machine / "inbox")
    values = {name: machine / place}
    assert [finding for finding in found("folders", **values) if finding.stops and reason in finding.message]
    with pytest.raises(NotHealthyError) as refusal:
        examine_at_start(settings(**values))
    assert f"APPLIANCE_{name.upper()} " in str(refusal.value.hint)
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("inbox", "outbox/inbox"),
        ("inbox", "state/inbox"),
        ("outbox", "state/outbox"),
        ("outbox", "models/outbox"),
        ("models", "state/models"),
    ],
)
def test_a_folder_may_lie_in_another_where_that_does_no_harm(machine: Path, name: str, place: str):
    assert [finding.level for finding in found("folders", **{name: machine / place})] == [Level.OK]


def test_what_is_mounted_from_within_the_inbox_is_found_in_it(machine: Path):
    (machine / "inbox" / "out").mkdir()
    if subprocess.run(
        ["mount", "--bind", machine / "inbox" / "out", machine / "outbox"], capture_output=True
    ).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        (finding,) = found("folders")
    finally:
        subprocess.run(["umount", machine / "outbox"], check=True)
    assert finding.message.startswith(f"outbox {machine / 'outbox'} lies in inbox")
