"""Uploads: streamed into the inbox under names that are ignored there, and renamed once all of them are whole.

Nothing is held in memory but the piece that arrives. The fields of the form hold for all of its files, wherever they
stand in it; only the proof of a session comes before the files, as in our pages.
"""

import errno
import os
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException, Request

from appliance.files import rename_new
from appliance.names import CHECK_FOLDER, ignored, printable
from appliance.web.form_stream import FileBegins, FileBytes, FileEnds, FormField, read_form
from appliance.web.guards import CSRF_FIELD, check_proof, check_recipe
from appliance.web.site import Site

PREFIX: Final = ".upload-"
ENDING: Final = ".partial"
MOST_FILES: Final = 16
MOST_UPLOADS: Final = 4
LONGEST_NAME_BYTES: Final = 200
FIELDS: Final = ("recipe", "check", CSRF_FIELD)
# What a form needs besides its files.
FORM_BYTES: Final = 1 << 20
GB: Final = 10**9


class Uploads:
    """Takes uploads in, a few at a time."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._running = 0

    async def take(self, request: Request) -> list[str]:
        """Put the files of a request into the inbox. Returns their paths there; leaves nothing unless all arrived."""
        if self._running >= MOST_UPLOADS:
            raise HTTPException(503, "too many uploads at once; try again later", headers={"Retry-After": "60"})
        limit = self._site.settings.max_drop_bytes
        if int(request.headers.get("content-length", "0")) > limit + FORM_BYTES:
            raise _too_large(limit)
        self._running += 1
        incoming = _Incoming(self._site.settings.inbox, limit)
        # Threads of its own: a share that hangs must not take those of the pages.
        threads = CapacityLimiter(1)
        try:
            folder = self._folder(await self._receive(request, incoming, threads))
            return await to_thread.run_sync(incoming.appear, folder, limiter=threads)
        except OSError as error:
            raise _storage_problem(error) from error
        finally:
            self._running -= 1
            await to_thread.run_sync(incoming.clean, limiter=threads)

    async def _receive(self, request: Request, incoming: "_Incoming", threads: CapacityLimiter) -> dict[str, str]:
        """The fields of the form, once all of its files have arrived."""
        fields: dict[str, str] = {}
        proven = False
        async for piece in read_form(request):
            match piece:
                case FormField(name, value):
                    _must_be_clear(name, value, fields)
                    fields[name] = value
                    check_recipe(self._site, fields.get("recipe", ""))
                case FileBegins(""):
                    pass  # What a browser sends for a file that was not chosen.
                case FileBegins(filename):
                    if not proven:
                        check_proof(self._site, request, fields.get(CSRF_FIELD, ""))
                        proven = True
                    await to_thread.run_sync(incoming.begin, filename, limiter=threads)
                case FileBytes(data):
                    await to_thread.run_sync(incoming.write, data, limiter=threads)
                case FileEnds():
                    await to_thread.run_sync(incoming.end, limiter=threads)
        if not proven:
            raise HTTPException(400, "there is no file in the form")
        return fields

    def _folder(self, fields: dict[str, str]) -> PurePosixPath:
        """Where in the inbox: the folder of a library recipe, below `check` for a dry run."""
        recipe = fields.get("recipe", "")
        return PurePosixPath(*([CHECK_FOLDER] if fields.get("check") else []), *([recipe] if recipe else []))


class _Incoming:
    """The files of one upload on their way. Used from one thread at a time."""

    def __init__(self, inbox: Path, limit: int) -> None:
        self._inbox = inbox
        self._limit = limit
        self._files: dict[str, Path] = {}
        self._open: int | None = None

    def begin(self, filename: str) -> None:
        name = _plain_name(filename)
        if len(self._files) >= MOST_FILES:
            raise HTTPException(413, f"more than {MOST_FILES} files at once")
        if name in self._files:
            raise HTTPException(409, f"two files of the form are called {printable(name)}; rename one")
        partial = self._inbox / f"{PREFIX}{uuid.uuid4().hex}{ENDING}"
        self._open = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._files[name] = partial

    def write(self, data: bytes) -> None:
        if self._open is None:
            return
        self._limit -= len(data)
        if self._limit < 0:
            raise HTTPException(413, "the upload is larger than APPLIANCE_MAX_DROP_GB allows")
        view = memoryview(data)
        while view:
            view = view[os.write(self._open, view) :]

    def end(self) -> None:
        if self._open is not None:
            os.fsync(self._open)
            self._close()

    def appear(self, folder: PurePosixPath) -> list[str]:
        """Give every file its name in a folder of the inbox: from here on it is a drop like any other."""
        place = self._inbox / folder
        for name in self._files:
            if (place / name).exists():
                raise _there_already(name)
        place.mkdir(parents=True, exist_ok=True)
        for name, partial in self._files.items():
            try:
                rename_new(partial, place / name)
            except FileExistsError as error:
                raise _there_already(name) from error
        return [str(folder / name) for name in self._files]

    def clean(self) -> None:
        """Remove what did not get its name."""
        self._close()
        for partial in self._files.values():
            partial.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None


def remove_unfinished(inbox: Path) -> None:
    """Remove what uploads left that the end of the daemon cut short. Called before the first request."""
    for partial in inbox.glob(f"{PREFIX}*{ENDING}"):
        partial.unlink(missing_ok=True)


def _must_be_clear(name: str, value: str, fields: Mapping[str, str]) -> None:
    """Refuse a field that would be passed over: a night of training may hang on it."""
    if name not in FIELDS:
        raise HTTPException(400, f"the form has a field {printable(name)!r}; there are {' and '.join(FIELDS[:2])}")
    if fields.get(name, value) != value:
        raise HTTPException(400, f"the form has two fields {name}; send each {name} with a form of its own")


def _there_already(name: str) -> HTTPException:
    return HTTPException(409, f"{printable(name)} is in the inbox already; wait until it is taken in, or rename")


def _plain_name(filename: str) -> str:
    """The last part of a file's name, which some browsers send with its folders."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    if not name or "\0" in name or name in (".", "..") or len(name.encode()) > LONGEST_NAME_BYTES:
        raise HTTPException(422, "the file has no name that can be used")
    if ignored(name, folder=False):
        raise HTTPException(422, f"{printable(name)} is a name that the inbox ignores; rename the file")
    return name


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the upload is larger than {limit / GB:g} GB, which APPLIANCE_MAX_DROP_GB allows")


def _storage_problem(error: OSError) -> HTTPException:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HTTPException(507, "the disk of the inbox is full")
    return HTTPException(503, f"the inbox cannot be written: {error.strerror}")
