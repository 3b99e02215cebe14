"""Logs on standard error, one line an event, job first. No secret gets into a record, and so into no handler.

A line is about a job when it is logged with `extra={"job": job.id}`.
"""

import atexit
import io
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Literal, ParamSpec, TextIO

P = ParamSpec("P")
Redact = Callable[[str], str]
LogFormat = Literal["text", "json"]

REDACTED = "[redacted]"
# Hub tokens and bearer tokens, whoever they belong to. Long enough to spare words like hf_transfer.
_TOKENS = r"hf_(?:[a-z]+_)?[A-Za-z0-9]{20,}[\w.\-]*|(?i:(?<=bearer )[\w.~+/=\-]{16,})"


def setup_logging(log_format: LogFormat, secrets: Iterable[str] = ()) -> None:
    """Log to standard error in `log_format`, with `secrets` and whatever looks like a token removed at the source."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.setLogRecordFactory(_clean(logging.LogRecord, redactor(secrets)))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda uncaught: _log_uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Python's own way would print the exception as it is."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("appliance").critical("stopped by an error", exc_info=(kind, error or kind(), trace))


def redactor(secrets: Iterable[str]) -> Redact:
    """A function that takes `secrets`, and whatever looks like a token, out of a text."""
    # The longest first: a secret that is part of another must not leave the rest of it standing.
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, known), _TOKENS]))
    return lambda text: pattern.sub(REDACTED, text)


class _RedactedText(io.TextIOBase):
    """A stream that passes on whole lines, without secrets: one that is written in two pieces is found as well."""

    def __init__(self, stream: TextIO, redact: Redact) -> None:
        self._stream, self._redact, self._open_line = stream, redact, ""

    def write(self, text: str, /) -> int:
        text = self._open_line + text
        end = max(text.rfind("\n"), text.rfind("\r")) + 1
        if end:
            self._stream.write(self._redact(text[:end]))
            self._stream.flush()
        self._open_line = text[end:]
        return len(text)

    def flush(self) -> None:
        """Nothing before the end of the line: it may still become a secret."""

    def close(self) -> None:
        if not self.closed:
            self._stream.write(self._redact(self._open_line))
            self._stream.flush()
            self._open_line = ""
        super().close()

    def fileno(self) -> int:
        return self._stream.fileno()


def redact_output(secrets: Iterable[str]) -> None:
    """Take `secrets`, and whatever looks like a token, out of all that this process prints, tracebacks too."""
    redact = redactor(secrets)
    for name in ("stdout", "stderr"):
        clean = _RedactedText(getattr(sys, name), redact)
        setattr(sys, name, clean)
        atexit.register(clean.close)


def _clean(make: Callable[P, logging.LogRecord], redact: Redact) -> Callable[P, logging.LogRecord]:
    """`make`, with records that hold text only: message, exception and stack, none of them with a secret in it."""

    def make_clean(*args: P.args, **kwargs: P.kwargs) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.msg, record.args = redact(_message(record)), None
        if record.exc_info and record.exc_info[0]:
            record.exc_text, record.exc_info = redact(_traceback(record.exc_info)), None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record

    return make_clean


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # Arguments that do not fit their message: a slip of ours, and no reason to lose the event.
        return f"{record.msg} {record.args!r}"


_traceback = logging.Formatter().formatException


def _when(record: logging.LogRecord) -> str:
    """Local time (TZ is honoured) with its offset."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")


class _TextFormatter(logging.Formatter):
    """`2026-11-22T07:00:00+00:00 INFO 0007-support started, attempt 1`."""

    def format(self, record: logging.LogRecord) -> str:
        job = getattr(record, "job", None)
        words = [_when(record), record.levelname, *([job] if job else []), _one_line(record.getMessage())]
        return "\n".join(filter(None, [" ".join(words), record.exc_text, record.stack_info]))


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, in plain ASCII so that every locale can write it."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": _when(record),
            "level": record.levelname,
            "job": getattr(record, "job", None),
            "message": record.getMessage(),
            "logger": record.name,
            "exception": record.exc_text,
            "stack": record.stack_info,
        }
        return json.dumps({name: fact for name, fact in facts.items() if fact is not None})


def _one_line(text: str) -> str:
    """`text` with line breaks, control and direction marks spelled out: a file's name must not forge a line."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
