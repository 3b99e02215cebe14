"""The files of a result: those that its manifest names, through no link, and never as a page of ours.

What people wrote into a file may be anything. Reports and reasons are shown in a sandbox without scripts; the rest is
saved, not shown.
"""

import os
import stat
import zipfile
from collections.abc import Iterator
from mimetypes import guess_type
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import StreamingResponse

from appliance.files import open_below
from appliance.web.api import job_finder
from appliance.web.guards import may_read
from appliance.web.jobs import ResultFile, result_files
from appliance.web.site import Site

PIECE_BYTES: Final = 1 << 18
TEXTS: Final = (".md", ".txt", ".json", ".jsonl", ".yaml", ".log")
SHOWN: Final = {".html": "text/html", ".png": "image/png", **dict.fromkeys(TEXTS, "text/plain")}
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox allow-same-origin allow-downloads allow-popups"
)


def make_downloads(site: Site) -> APIRouter:
    """Below each job: its files one by one, and its adapter as one."""
    downloads = APIRouter(include_in_schema=False, dependencies=[Depends(may_read(site))])
    find = job_finder(site)

    @downloads.get("/jobs/{id}/files/{path:path}")
    def file(id: str, path: str) -> Response:
        folder, files = result_files(site, find(id))
        # The manifest itself is the one file that it cannot name.
        if folder is None or path not in {*(file.path for file in files), "manifest.json"}:
            raise HTTPException(404, "this job has no such file")
        opened, size = _opened(folder, path)
        headers = {"Content-Length": str(size), "Content-Security-Policy": POLICY} | _disposition(path)
        return StreamingResponse(_pieces(opened), media_type=_type(path), headers=headers)

    @downloads.get("/jobs/{id}/adapter.zip")
    def adapter(id: str) -> Response:
        job = find(id)
        folder, files = result_files(site, job)
        chosen = [file for file in files if file.path.startswith("adapter/")]
        if folder is None or not chosen:
            raise HTTPException(404, "this job has no adapter")
        headers = {"Content-Disposition": f'attachment; filename="{job.id}.zip"'}
        return StreamingResponse(_zipped(folder, job.id, chosen), media_type="application/zip", headers=headers)

    return downloads


def _opened(folder: Path, path: str) -> tuple[BinaryIO, int]:
    """An ordinary file of a result, and its size."""
    try:
        file = os.fdopen(open_below(folder, path), "rb")
    except OSError as error:
        raise HTTPException(404, "the file is not in the outbox any more") from error
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise HTTPException(404, "the file is not in the outbox any more")
    return file, status.st_size


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _type(path: str) -> str:
    suffix = Path(path).suffix.lower()
    return SHOWN.get(suffix) or guess_type(path)[0] or "application/octet-stream"


def _disposition(path: str) -> dict[str, str]:
    name = path.rpartition("/")[2]
    # What was dropped is somebody's own: it is given back, not shown.
    shown = Path(path).suffix.lower() in SHOWN and not path.startswith("dropped/")
    return {} if shown else {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}


def _zipped(folder: Path, name: str, files: list[ResultFile]) -> Iterator[bytes]:
    """A zip of files, made as it is sent. Weights do not compress, so nothing is compressed."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            opened, _ = _opened(folder, file.path)
            with archive.open(f"{name}/{file.path.removeprefix('adapter/')}", "w", force_zip64=True) as entry:
                for piece in _pieces(opened):
                    entry.write(piece)
                    yield sink.taken()
    yield sink.taken()


class _Sink:
    """A file that can only be written to: zip then writes sizes after each entry instead of going back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """There is nothing to close."""

    def taken(self) -> bytes:
        """What was written since the last time."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
