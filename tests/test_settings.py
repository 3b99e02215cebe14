"""Settings: what is read from where, and what a mistake is told."""

import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest

from appliance.disk import Space, reserve_bytes
from appliance.settings import MOST_DAYS, MOST_GB, SECRETS, Settings, SettingsError
from tests.users import not_as_root


def load(dotenv: str = "", **environment: str) -> Settings:
    """Settings from these variables, given without the prefix, and from an `.env` of this text."""
    if dotenv:
        Path(".env").write_text(dotenv)
    return Settings.load({f"APPLIANCE_{name}": value for name, value in environment.items()})


def refusal(**environment: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(**environment)
    return refused.value.message


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_variable_the_defaults_stand():
    settings = load()

    assert settings.inbox == Path("inbox")
    assert settings.quiet_seconds == 5
    assert settings.listen == "127.0.0.1:8080"
    assert settings.api_token is None
    assert settings.allowed_base_models is None


def test_variables_of_other_programs_are_none_of_our_business():
    assert Settings.load({"PATH": "/usr/bin", "HF_HOME": "cache"}) == load()


def test_the_environment_is_read_when_nothing_is_passed_in(monkeypatch):
    monkeypatch.setenv("APPLIANCE_MAX_ATTEMPTS", "7")

    assert Settings.load().max_attempts == 7


def test_an_unknown_variable_is_refused_with_the_nearest_setting():
    assert refusal(MAX_ATEMPTS="3") == ("APPLIANCE_MAX_ATEMPTS is not a setting; did you mean APPLIANCE_MAX_ATTEMPTS?")
    assert refusal(HUB_TOKEN_FLE="x").endswith("did you mean APPLIANCE_HUB_TOKEN_FILE?")
    assert refusal(XYZZY="1") == "APPLIANCE_XYZZY is not a setting"


def test_every_mistake_is_told_at_once():
    message = refusal(XYZZY="1", QUIET_SECONDS="-1", MAX_ATTEMPTS="2.5", LOG_FORMAT="xml")

    assert message.count(";") == 3
    for name in ("XYZZY", "QUIET_SECONDS", "MAX_ATTEMPTS", "LOG_FORMAT"):
        assert f"APPLIANCE_{name} is " in message


@pytest.mark.parametrize(
    ("name", "too_small", "smallest"),
    [
        ("QUIET_SECONDS", "-0.1", "0"),
        ("SCAN_SECONDS", "0", "0.1"),
        ("MAX_ATTEMPTS", "0", "1"),
        ("CHECKPOINT_MINUTES", "0", "0.5"),
        ("DISK_RESERVE_GB", "-1", "0"),
    ],
)
def test_numbers_have_bounds(name, too_small, smallest):
    assert f"APPLIANCE_{name} is '{too_small}': it must be greater than" in refusal(**{name: too_small})
    assert getattr(load(**{name: smallest}), name.lower()) == float(smallest)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TRAIN_WINDOW", "banana", "it must be a span of hours such as 20:00-07:00"),
        ("TRAIN_WINDOW", "07:00-07:00", "it ends when it begins; write hours such as 20:00-07:00, or leave it out"),
        ("HUB_ORG", "a/b", "it must be the name of one organisation on the Hub, such as my-lab"),
        ("HUB_ORG", "a" * 97, "it must be the name of one organisation on the Hub, such as my-lab"),
        ("LISTEN", "8080", "it must be host:port, such as 127.0.0.1:8080"),
        ("LISTEN", "127.0.0.1:99999", "it must be host:port, such as 127.0.0.1:8080"),
        ("MAX_ATTEMPTS", "2.5", "it must be a whole number"),
        ("QUIET_SECONDS", "soon", "it must be a number"),
        ("HUB_PUSH", "perhaps", "it must be true or false"),
        ("LOG_FORMAT", "xml", "it must be 'text' or 'json'"),
    ],
)
def test_a_value_that_cannot_be_used_is_answered_with_what_can(name, value, says):
    assert refusal(**{name: value}) == f"APPLIANCE_{name} is '{value}': {says}"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:8080", "0.0.0.0:8080", "spark.local:65535"])
def test_an_address_is_a_host_and_a_port(address):
    assert load(LISTEN=address).listen == address


FRACTIONS = [name.upper() for name, field in Settings.model_fields.items() if field.annotation in (float, float | None)]


@pytest.mark.parametrize("name", FRACTIONS)
def test_no_number_is_too_large_to_count_with(name):
    for endless in ("inf", "nan", "1e400"):
        assert refusal(**{name: endless}) == f"APPLIANCE_{name} is '{endless}': it must be a finite number"
    assert f"APPLIANCE_{name} is '1e12': it must be less than or equal to " in refusal(**{name: "1e12"})


def test_the_largest_numbers_can_be_counted_with():
    settings = load(KEEP_FINISHED_DAYS=f"{MOST_DAYS}", MAX_DROP_GB=f"{MOST_GB}", DISK_RESERVE_GB=f"{MOST_GB}")

    assert settings.max_drop_bytes == 10**18
    assert reserve_bytes(settings, Space(0, 0, 0)) == 10**18
    assert datetime.fromtimestamp(time.time() + settings.keep_finished_days * 86_400).year > 2200


def test_lists_are_words_with_commas_or_json():
    assert load(ALLOWED_HOSTS="spark.local, box").allowed_hosts == ("spark.local", "box")
    assert load(ALLOWED_HOSTS='["spark.local", "box"]').allowed_hosts == ("spark.local", "box")
    assert load(ALLOWED_BASE_MODELS="demo").allowed_base_models == ("demo",)
    assert load(ALLOWED_DATASETS="[]").allowed_datasets == ()


def test_the_environment_wins_over_dotenv():
    settings = load("APPLIANCE_MAX_ATTEMPTS=5\nAPPLIANCE_HUB_ORG=lab\nOTHER=1\n", MAX_ATTEMPTS="7")

    assert settings.max_attempts == 7
    assert settings.hub_org == "lab"


def test_an_empty_value_is_as_good_as_none():
    assert load(MAX_ATTEMPTS="", HUB_ORG="").max_attempts == 3
    assert load("APPLIANCE_MAX_ATTEMPTS=5\n", MAX_ATTEMPTS="").max_attempts == 5


def test_a_misspelt_variable_in_dotenv_is_refused_too(empty_folder):
    (empty_folder / ".env").write_text("APPLIANCE_INBOXX=here\n")

    assert refusal() == "APPLIANCE_INBOXX is not a setting; did you mean APPLIANCE_INBOX?"


def test_a_dotenv_that_is_not_utf_8_is_named_with_the_line(empty_folder):
    (empty_folder / ".env").write_bytes(b"APPLIANCE_MAX_ATTEMPTS=5\n# f\xfcr\n")

    with pytest.raises(SettingsError) as refused:
        load()

    assert refused.value.message == "line 2 of .env is not UTF-8"
    assert refused.value.hint == "Save it as UTF-8."


def test_a_dotenv_of_another_user_is_named_with_what_to_do():
    # The folders of tests belong to whoever runs them: another user may not even look into them.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        dotenv = Path(name) / ".env"
        dotenv.write_text("APPLIANCE_MAX_ATTEMPTS=5\n")
        dotenv.chmod(0)
        with not_as_root(), pytest.raises(SettingsError) as refused:
            Settings.load({}, dotenv=dotenv)

    assert refused.value.message == f"{dotenv} cannot be read: Permission denied"
    assert (refused.value.hint or "").startswith("Let user ")


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_may_lie_in_a_file(secret, empty_folder):
    (empty_folder / "token").write_text("s3cret-word\n")

    assert getattr(load(**{f"{secret}_FILE": "token"}), secret.lower()) == "s3cret-word"


def test_addresses_with_keys_may_lie_in_files_and_an_empty_one_says_nothing(empty_folder):
    (empty_folder / "urls").write_text("ntfy://one\nmailto://two\n")
    (empty_folder / "url").write_text("https://ping.example/key\n")
    (empty_folder / "empty").write_text("\n")

    settings = load(NOTIFY_URLS_FILE="urls", HEARTBEAT_URL_FILE="url", HUB_TOKEN_FILE="empty")

    assert settings.notify_urls == ("ntfy://one", "mailto://two")
    assert (settings.heartbeat_url, settings.hub_token) == ("https://ping.example/key", None)


def test_a_secret_in_the_environment_wins_over_a_file_named_in_dotenv(empty_folder):
    (empty_folder / "token").write_text("old")

    assert load("APPLIANCE_API_TOKEN_FILE=token\n", API_TOKEN="new").api_token == "new"


def test_a_secret_file_that_cannot_be_used_is_named_with_the_reason(empty_folder):
    (empty_folder / "empty").write_text(" \n")
    (empty_folder / "binary").write_bytes(b"\xff\xfe\x00")

    assert refusal(HUB_TOKEN_FILE="gone") == (
        "APPLIANCE_HUB_TOKEN_FILE names gone, which cannot be read: No such file or directory"
    )
    assert refusal(HUB_TOKEN_FILE=str(empty_folder)).endswith("cannot be read: Is a directory")
    assert refusal(API_TOKEN_FILE="empty") == "APPLIANCE_API_TOKEN_FILE names empty, which is empty"
    assert refusal(API_TOKEN_FILE="binary") == "APPLIANCE_API_TOKEN_FILE names binary, which is not text"


def test_a_secret_file_of_another_user_is_named_with_the_reason(empty_folder):
    token = empty_folder / "token"
    token.write_text("s3cret-word")
    token.chmod(0)

    with not_as_root():
        message = refusal(API_TOKEN_FILE=str(token))

    assert message == f"APPLIANCE_API_TOKEN_FILE names {token}, which cannot be read: Permission denied"


def test_no_secret_is_ever_shown():
    secrets = {secret: f"word-of-{secret}" for secret in SECRETS}
    addresses = {"NOTIFY_URLS": "mailto://user:pass@host", "HEARTBEAT_URL": "https://ping.example/key"}

    settings = load(**secrets, **addresses)

    for hidden in (*secrets.values(), *addresses.values()):
        assert hidden not in repr(settings)
        assert hidden not in str(settings)
        assert hidden in settings.secrets()


def test_a_mistake_beside_a_secret_does_not_tell_the_secret():
    assert "s3cret-word" not in refusal(API_TOKEN="s3cret-word", MAX_ATTEMPTS="many")


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load().max_attempts = 9
