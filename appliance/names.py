"""Names of files and jobs. Names are data: never paths, labels or shell words. Pure."""

import re
import unicodedata
from functools import lru_cache
from pathlib import PurePath
from typing import Final

from appliance.job import Role

DATA_SUFFIXES: Final = (".jsonl", ".json", ".jsonl.gz", ".csv", ".parquet")
RECIPE_SUFFIXES: Final = (".yaml", ".yml")
CHECKSUM_SUFFIX: Final = ".sha256"

READ_ME: Final = "READ ME FIRST.txt"
SENTINEL: Final = ".appliance"
CHECK_FOLDER: Final = "check"

# What has more digits names no job: the database could not even look for it.
LONGEST_NUMBER: Final = 9

# What editors, browsers, sync clients and operating systems leave behind; compared in lower case.
# fmt: off
_IGNORED_BEGINNINGS: Final = (".", "~syncthing~", "~$")
_IGNORED_ENDINGS: Final = (
    "~", ".part", ".partial", ".partial~", ".crdownload", ".download", ".filepart", ".tmp", ".temp",
    ".swp", ".swx", ".swo", ".bak", ".!ut", ".!sync", ".icloud", ".lnk", ".url", ":zone.identifier", ".identifier",
)
_IGNORED_NAMES: Final = frozenset({"4913", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_IGNORED_FOLDERS: Final = frozenset({
    "@eadir", "#recycle", "#snapshot", ".@__thumb", "$recycle.bin", "system volume information",
    "network trash folder", "temporary items", "__macosx", "lost+found",
})
# fmt: on


def ignored(name: str, *, folder: bool) -> bool:
    """Whether a file or folder of this name is never looked at and never touched."""
    low = name.lower()
    if folder:
        return low.startswith(".") or low in _IGNORED_FOLDERS
    return (
        name == READ_ME
        or low.startswith(_IGNORED_BEGINNINGS)
        or low.endswith(_IGNORED_ENDINGS)
        or low in _IGNORED_NAMES
        or (low.startswith("#") and low.endswith("#"))
    )


def split_suffix(name: str) -> tuple[str, str]:
    """`Support.JSONL` as `("Support", ".jsonl")`; the suffix is in lower case and may have two parts."""
    low = name.lower()
    for suffix in (*DATA_SUFFIXES, *RECIPE_SUFFIXES, CHECKSUM_SUFFIX):
        if low.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], suffix
    path = PurePath(name)
    return path.stem, path.suffix.lower()


@lru_cache(maxsize=65536)
def role_of(name: str) -> tuple[str, Role]:
    """What a file in the inbox is for, and the stem by which it finds its partners.

    `support.eval.jsonl` is the held-out file of `support`; `support.sha256` and `support.jsonl.sha256` both belong to
    `support`.
    """
    stem, suffix = split_suffix(name)
    if suffix in RECIPE_SUFFIXES:
        return stem, Role.RECIPE
    if suffix == CHECKSUM_SUFFIX:
        inner, inner_suffix = split_suffix(stem)
        return (inner if inner_suffix in DATA_SUFFIXES else stem), Role.CHECKSUM
    if suffix not in DATA_SUFFIXES:
        return stem, Role.OTHER
    if stem.lower().endswith(".eval"):
        return stem[: -len(".eval")], Role.EVAL
    return stem, Role.DATASET


def printable(name: str) -> str:
    """A name as it can be shown and stored: bytes that are not UTF-8, control and direction marks become escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def slug(name: str) -> str:
    """A job's name as it may stand in a directory name or address: `a-z 0-9 . _ -`, at most 60 characters."""
    plain = unicodedata.normalize("NFKD", printable(name)).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._").lower()
    return words[:60].rstrip("-._") or "job"


def job_id(number: int, name: str) -> str:
    """`NNNN-name`: the sequence number with at least four digits, and the slug."""
    return f"{number:04d}-{slug(name)}"


def job_number(directory_name: str) -> int | None:
    """The number in front of a directory name like `0008-support.rejected`, or None when it is not one of ours."""
    digits, dash, _ = directory_name.partition("-")
    return parse_number(digits) if dash and len(digits) >= 4 else None


def named_number(name: str) -> int | None:
    """The number of the job that a person or an address names: `7`, `0007` or `0007-support`."""
    number = parse_number(name)
    return job_number(name) if number is None else number


def parse_number(digits: str) -> int | None:
    """A job's number as it is written, `7` or `0007`; None when it is none, or longer than any."""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_NUMBER else None
