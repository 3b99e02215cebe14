"""Settings: environment variables with the prefix `APPLIANCE_`, also read from `.env`.

A secret setting `X` may be given as `X_FILE`, the name of a file that holds it. An unknown variable with the prefix
is an error, so that a misspelt setting cannot be ignored in silence.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from appliance.errors import ApplianceError
from appliance.surroundings import give, on_host
from appliance.window import Window

PREFIX = "APPLIANCE_"
SECRETS = ("API_TOKEN", "READ_TOKEN", "HUB_TOKEN", "HUB_READ_TOKEN")
# Addresses that carry keys; they too may be given as files.
ADDRESSES = ("NOTIFY_URLS", "HEARTBEAT_URL")
# More than anybody means, and little enough to count with: dates end with the year 9999, sizes with 64 bits.
MOST = 1_000_000
MOST_DAYS = 100_000
MOST_GB = 1_000_000_000


class SettingsError(ApplianceError):
    """A setting is misspelt or has a value that cannot be used."""

    exit_code = 2


def _span_of_hours(text: str | None) -> str | None:
    if text is not None:
        Window.parse(text)
    return text


def _organisation(text: str) -> str:
    if len(text) > 96 or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", text):
        raise ValueError("it must be the name of one organisation on the Hub, such as my-lab")
    return text


def _address(text: str) -> str:
    found = re.fullmatch(r".+:([0-9]{1,5})", text)
    if not found or int(found[1]) > 65535:
        raise ValueError("it must be host:port, such as 127.0.0.1:8080")
    return text


class Settings(BaseSettings):
    """Every setting with its default, grouped as README and `contract` group them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    # Folders
    inbox: Path = Path("inbox")
    outbox: Path = Path("outbox")
    recipes: Path = Path("recipes")
    state: Path = Path("state")
    models: Path = Path("models")

    # Intake
    quiet_seconds: float = Field(5, ge=0, le=MOST)
    pair_seconds: float = Field(10, ge=0, le=MOST)
    scan_seconds: float = Field(2, gt=0, le=MOST)
    max_drop_gb: float = Field(50, gt=0, le=MOST_GB)
    allowed_base_models: Annotated[tuple[str, ...] | None, NoDecode] = None
    allowed_datasets: Annotated[tuple[str, ...], NoDecode] = ()

    # Machine
    memory_reserve_gb: float = Field(12, ge=0, le=MOST_GB)
    memory_floor_gb: float = Field(8, ge=0, le=MOST_GB)
    memory_kill_floor_gb: float = Field(4, ge=0, le=MOST_GB)
    disk_reserve_gb: float = Field(20, ge=0, le=MOST_GB)
    gpu_peak_tflops: float | None = Field(None, gt=0, le=MOST)

    # Jobs
    checkpoint_minutes: float = Field(10, gt=0, le=MOST)
    stall_minutes: float = Field(20, gt=0, le=MOST)
    max_attempts: int = Field(3, ge=1)
    max_job_hours: float = Field(72, gt=0, le=MOST)
    max_priority: Literal["high", "normal", "low"] = "high"
    train_window: Annotated[str | None, AfterValidator(_span_of_hours)] = None
    before_train_url: str | None = None
    after_train_url: str | None = None

    # Data
    keep_datasets: Literal["outbox", "state", "delete"] = "outbox"
    keep_finished_days: float = Field(30, ge=0, le=MOST_DAYS)

    # Hub
    hub_org: Annotated[str, AfterValidator(_organisation)] | None = None
    hub_push: bool = True
    hub_push_when: Literal["improved", "not_worse", "not_broken"] = "not_worse"
    hub_allow_public: bool = False
    hub_token: str | None = Field(None, repr=False)
    hub_read_token: str | None = Field(None, repr=False)

    # Service
    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8080"
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    api_token: str | None = Field(None, repr=False)
    read_token: str | None = Field(None, repr=False)
    log_format: Literal["text", "json"] = "text"
    notify_urls: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False)
    heartbeat_url: str | None = Field(None, repr=False)

    _secret_files: tuple[Path, ...] = PrivateAttr(())
    _variables: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes in: the environment is read there, once, with unknown names refused."""
        return (init_settings,)

    @property
    def max_drop_bytes(self) -> int:
        return int(self.max_drop_gb * 10**9)

    def secrets(self) -> tuple[str, ...]:
        """The values that no log, page or message may show. Notification and heartbeat addresses carry keys too."""
        values = (
            *(self.api_token, self.read_token, self.hub_token, self.hub_read_token),
            *(self.heartbeat_url, self.before_train_url, self.after_train_url),
        )
        return tuple(value for value in (*values, *self.notify_urls) if value)

    def secret_files(self) -> tuple[Path, ...]:
        """Where secrets lie on this machine: the files that were named, and `.env`."""
        return self._secret_files

    def variables(self) -> dict[str, str]:
        """What was given, secrets included, by the full name of its variable, wherever it was found."""
        return self._variables

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, *, dotenv: Path | None = None) -> Self:
        """Settings from the environment over `.env` over the defaults.

        Raises SettingsError naming every variable that is unknown or cannot be used.
        """
        environment = os.environ if environment is None else environment
        # An empty value says nothing: compose passes one on for every variable that is not set.
        dotenv = dotenv or Path(".env")
        given = [*_read_dotenv(dotenv), *environment.items()]
        ours = [(name, text) for name, text in given if name.upper().startswith(PREFIX) and text]
        values, problems, hints = _read_variables(ours, set(cls.model_fields))
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems += [_explain(entry) for entry in error.errors()]
        if len(problems) > len(hints):
            hints.append("README.md lists the settings and their values.")
        if problems:
            raise SettingsError("; ".join(problems), hint="\n".join(dict.fromkeys(hints)))
        settings._variables = {name.upper(): text for name, text in ours}
        files = [Path(text) for name, text in ours if name.upper() in _SECRET_FILES]
        settings._secret_files = tuple(path.absolute() for path in (dotenv, *files))
        return settings


_SECRET_FILES = {f"{PREFIX}{name}_FILE" for name in (*SECRETS, *ADDRESSES)}


def _read_dotenv(path: Path) -> Iterable[tuple[str, str | None]]:
    try:
        return dotenv_values(path).items()
    except OSError as error:
        hint = f"Let user {os.geteuid()} read it."
        raise SettingsError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"line {line} of {path} is not UTF-8", hint="Save it as UTF-8.") from error


def _read_variables(given: Iterable[tuple[str, str]], known: set[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The values by field, the later over the earlier; what is wrong with the variables themselves; what mends it."""
    values: dict[str, Any] = {}
    problems, hints = [], []
    secret_files = {f"{name}_FILE".lower(): name.lower() for name in (*SECRETS, *ADDRESSES)}
    for variable, text in given:
        name = variable[len(PREFIX) :].lower()
        if name in secret_files:
            try:
                secret = _read_secret(Path(text), optional=name in _OPTIONAL_SECRETS)
                if secret is not None:
                    values[secret_files[name]] = _split(secret) if secret_files[name] in _LISTS else secret
            except SettingsError as error:
                problems.append(f"{variable} names {text}, which {error}")
                hints += [error.hint] if error.hint else []
        elif name in known:
            values[name] = _split(text) if name in _LISTS else text
        else:
            near = difflib.get_close_matches(name, [*known, *secret_files], n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            problems.append(f"{variable} is not a setting{hint}")
    return values, problems, hints


# compose.yaml mounts these always; whoever does not use the Hub, or notifications, leaves them empty.
_OPTIONAL_SECRETS = {"hub_token_file", "hub_read_token_file", "notify_urls_file", "heartbeat_url_file"}


def _read_secret(path: Path, *, optional: bool) -> str | None:
    try:
        secret = path.read_text().strip()
    except FileNotFoundError as error:
        raise SettingsError(f"cannot be read: {error.strerror}", hint=on_host("make secrets")) from error
    except OSError as error:
        raise SettingsError(f"cannot be read: {error.strerror}", hint=give(path)) from error
    except UnicodeDecodeError as error:
        raise SettingsError("is not text") from error
    # An empty token would be one that anybody has.
    if not secret and not optional:
        raise SettingsError("is empty", hint=on_host("remove it, then make secrets"))
    return secret or None


_LISTS = {"allowed_base_models", "allowed_datasets", "allowed_hosts", "notify_urls"}


def _split(text: str) -> tuple[str, ...]:
    """`a, b`, `["a", "b"]` or one a line as a tuple of words."""
    parts = text.strip(" []").replace("\n", ",").split(",")
    return tuple(word for word in (part.strip(" \"'\r") for part in parts) if word)


# What pydantic says of a text that is none of these speaks of parsing.
_MUST_BE = {
    "int_parsing": "it must be a whole number",
    "float_parsing": "it must be a number",
    "bool_parsing": "it must be true or false",
}


def _explain(entry: ErrorDetails) -> str:
    name = PREFIX + str(entry["loc"][0]).upper()
    if entry["type"] == "value_error":
        why = str(entry["ctx"]["error"])
    else:
        why = _MUST_BE.get(entry["type"], entry["msg"].replace("Input should be", "it must be"))
    return f"{name} is {entry['input']!r}: {why}"
