"""Logs: what a line looks like, and that no secret gets into one."""

import json
import logging
import re
import subprocess
import sys
import threading
import warnings

import pytest

from appliance.logs import redactor, setup_logging

HUB_TOKEN = "hf_" + "AbCd" * 8 + "Ef"
log = logging.getLogger("appliance.test")


@pytest.fixture(autouse=True)
def python_as_it_was():
    """setup_logging is for a whole process; this one has other tests to run."""
    root = logging.getLogger()
    before = (logging.getLogRecordFactory(), sys.excepthook, threading.excepthook, root.level, root.handlers[:])
    yield
    logging.captureWarnings(False)
    factory, sys.excepthook, threading.excepthook, level, root.handlers[:] = before
    logging.setLogRecordFactory(factory)
    root.setLevel(level)


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_has_the_time_with_its_zone_the_level_and_the_job_first(capsys):
    setup_logging("text")

    log.info("%s started, attempt %d", "train", 1, extra={"job": "0007-support"})
    log.warning("the queue is paused")

    first, second = lines_of(capsys)
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
    assert re.fullmatch(time + " INFO 0007-support train started, attempt 1", first)
    assert re.fullmatch(time + " WARNING the queue is paused", second)


def test_the_zone_is_the_one_in_tz():
    program = "from appliance.logs import *; import logging; setup_logging('text'); logging.warning('x')"
    line = subprocess.run(
        [sys.executable, "-c", program], env={"TZ": "Asia/Kolkata"}, capture_output=True, text=True, timeout=60
    ).stderr

    assert re.search(r"\+05:30 WARNING x$", line)


def test_json_lines_hold_the_same_for_programs(capsys):
    setup_logging("json")

    log.info("train started, attempt 1", extra={"job": "0007-support"})
    log.info("naïve\nname")

    first, second = map(json.loads, lines_of(capsys))
    assert first.pop("time")
    assert first == {
        "level": "INFO",
        "job": "0007-support",
        "message": "train started, attempt 1",
        "logger": "appliance.test",
    }
    assert second["message"] == "naïve\nname"
    assert "job" not in second


def test_a_name_cannot_forge_a_line(capsys):
    setup_logging("text")

    log.info("%s was taken in", "a.jsonl\n2026-11-22T07:00:00+00:00 INFO 0001-x \u202egnp \udcff")

    (line,) = lines_of(capsys)
    assert line.endswith(r"a.jsonl\n2026-11-22T07:00:00+00:00 INFO 0001-x \u202egnp \udcff was taken in")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_gone_from_message_arguments_exception_and_stack(capsys, log_format):
    setup_logging(log_format, ["s3cret", "s3cret-and-more"])

    log.info("with s3cret inside, and s3cret-and-more")
    log.info("token %s from %r", "s3cret", {"token": "s3cret"})
    log.info("%(token)s", {"token": "s3cret"})
    log.info("badly %d formatted", "s3cret")
    log.info("and more", stack_info=True, extra={"job": "0007-support"})
    try:
        try:
            raise OSError("the Hub said s3cret")
        except OSError as error:
            raise ValueError(HUB_TOKEN) from error
    except ValueError:
        log.exception("push failed")

    written = capsys.readouterr().err
    assert "s3cret" not in written
    assert HUB_TOKEN not in written
    assert "-and-more" not in written
    assert "ValueError: [redacted]" in written
    assert "Traceback" in written
    assert "in test_secrets_are_gone" in written


def test_no_other_handler_sees_a_secret_either():
    setup_logging("text", ["s3cret"])
    seen = []
    other = logging.Handler()
    other.emit = seen.append
    log.addHandler(other)
    try:
        log.error("%s", "s3cret", exc_info=ValueError("s3cret"))
    finally:
        log.removeHandler(other)

    (record,) = seen
    assert "s3cret" not in repr(vars(record))


def test_what_looks_like_a_token_is_redacted_whoever_it_belongs_to():
    redact = redactor([])

    assert redact(f"Authorization: Bearer {HUB_TOKEN}, then") == "Authorization: Bearer [redacted], then"
    assert redact(f"token={HUB_TOKEN}&x=1") == "token=[redacted]&x=1"
    assert redact("hf_oauth_" + "a1B2" * 8) == "[redacted]"
    assert redact("hf_jwt_" + "eyJhbGciOiJFZERTQSJ9" + ".eyJyZWFk.sig-na_ture") == "[redacted]"
    assert redact("Authorization: bearer 0123456789abcdef") == "Authorization: bearer [redacted]"


def test_ordinary_words_are_left_alone():
    text = "hf_transfer and hf_hub_download_progress_bars_enabled load; a bearer of good news"

    assert redactor([])(text) == text


def test_an_empty_secret_redacts_nothing():
    assert redactor(["", "x9x"])("a b") == "a b"


def test_warnings_are_logged(capsys):
    setup_logging("text", ["s3cret"])

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(True)
        warnings.warn("s3cret is deprecated", DeprecationWarning, stacklevel=1)

    (line,) = lines_of(capsys)
    assert "DeprecationWarning: [redacted] is deprecated" in line


@pytest.mark.parametrize("where", ["fail()", "threading.Thread(target=fail).start()"])
def test_an_exception_that_nobody_catches_is_logged_and_redacted(where):
    program = (
        "import threading\n"
        "from appliance.logs import setup_logging\n"
        "def fail(): raise ValueError('s3' + 'cret')\n"
        f"setup_logging('json', ['s3cret']); {where}"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    (line,) = ended.stderr.splitlines()
    record = json.loads(line)
    assert record["level"] == "CRITICAL"
    assert record["exception"].endswith("ValueError: [redacted]")


def test_setting_up_again_replaces_the_former(capsys):
    setup_logging("text", ["one"])
    setup_logging("text", ["two"])

    log.info("one two")

    (line,) = lines_of(capsys)
    assert line.endswith("INFO one [redacted]")
