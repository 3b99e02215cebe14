"""What a file is before anybody looks at its rows: by its suffix, by its first bytes, and unpacked. Pure."""

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from appliance.dataset.findings import Fault, Unreadable
from appliance.dataset.json_faults import cut_off, quote
from appliance.errors import Reason
from appliance.names import DATA_SUFFIXES

# Text shrinks to a third or a tenth; a bomb to a thousandth. Little is let off: a few rows repeated shrink well.
GZIP_RATIO: Final = 200
GZIP_LET_OFF: Final = 100 * 2**20

_AS_JSONL: Final = "save its rows as .jsonl, one JSON object a line"
_AS_CSV: Final = "in the spreadsheet program choose Save as, CSV UTF-8, and drop the .csv"
_SPREADSHEETS: Final = (".xlsx", ".xls", ".xlsm", ".ods")


def foreign_suffix(suffix: str) -> Fault | None:
    """Why a file with this suffix is not read as a dataset, or None for those that are."""
    if suffix in DATA_SUFFIXES:
        return None
    expected = ", ".join(DATA_SUFFIXES)
    if suffix in _SPREADSHEETS:
        message = f"this is a spreadsheet; {_AS_CSV}. Its first line must name the columns, such as prompt, completion"
        return Fault("spreadsheet", message, found=suffix, expected=expected)
    if suffix == ".gz":
        message = "of packed files only .jsonl.gz is read; unpack it, or pack rows of JSON and name it .jsonl.gz"
        return Fault("unknown_suffix", message, found=suffix, expected=".jsonl.gz")
    what = (
        f"files ending in {quote(suffix)} are no datasets" if suffix else "the name has no ending that says what it is"
    )
    message = f"{what}; {_AS_JSONL}"
    return Fault("unknown_suffix", message, found=suffix or None, expected=expected)


_MAGIC: Final = (
    (b"\x1f\x8b", "gzip_content", "this is a gzip file; name it .jsonl.gz"),
    (b"PK\x03\x04", "zip_content", "this is a zip archive or a spreadsheet; drop the .jsonl inside it, or a CSV"),
    (b"PAR1", "parquet_content", "this is a Parquet file; let its name end in .parquet"),
    (b"SQLite format 3", "sqlite_content", f"this is a SQLite database; {_AS_JSONL}"),
    (b"%PDF", "pdf_content", f"this is a PDF; {_AS_JSONL}"),
    (b"version https://git-lfs", "git_lfs_pointer",
     "this is a Git LFS pointer, not the file it stands for; run git lfs pull and drop the file itself"),
)  # fmt: skip
_HTML: Final = re.compile(rb"\s*<(!doctype|html|\?xml|head|body)\b", re.IGNORECASE)


def foreign_content(head: bytes) -> Fault | None:
    """What the first bytes of a file give it away as, if it is no JSON."""
    for magic, code, message in _MAGIC:
        if head.startswith(magic):
            return Fault(code, message)
    if _HTML.match(head):
        return Fault("html_content", "this is a web page, most likely a download's error page; download the file again")
    if _is_utf16(head):
        return Fault("not_utf8", "this is UTF-16; save the file as UTF-8", found="UTF-16", reason=Reason.ENCODING)
    return None


def _is_utf16(head: bytes) -> bool:
    """A byte-order mark, or every other byte zero, as in plain Latin text. Zeros everywhere are a file half copied."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    even, odd = head[:200:2], head[1:200:2]
    return len(odd) > 1 and (0 in even) != (0 in odd) and max(even.count(0), odd.count(0)) > 0.7 * len(odd)


def gunzip(chunks: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """Unpack gzip in pieces of at most 1 MiB, one member after the other, and stop at a bomb."""
    member = None
    packed = unpacked = 0
    for chunk in chunks:
        packed += len(chunk)
        # Members may follow one another, and tapes and block devices pad with zeros.
        while chunk := chunk if member else chunk.lstrip(b"\0"):
            member = member or zlib.decompressobj(wbits=31)
            data = _unpack(member, chunk)
            unpacked += len(data)
            if unpacked > min(most_bytes, max(GZIP_LET_OFF, GZIP_RATIO * packed)):
                raise Unreadable(_bomb(packed, unpacked))
            yield data
            chunk = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        yield member.flush()
        raise Unreadable(cut_off())


def _bomb(packed: int, unpacked: int) -> Fault:
    found = f"{unpacked >> 20:,} MiB out of {packed >> 10:,} KiB"
    message = f"it unpacks to more than is allowed ({found} so far); drop it unpacked, as .jsonl, or in parts"
    return Fault("gzip_bomb", message, found=found, reason=Reason.TOO_LARGE)


def _unpack(member: "zlib._Decompress", chunk: bytes) -> bytes:
    try:
        return member.decompress(chunk, 2**20)
    except zlib.error as error:
        message = "this is no gzip file, or a damaged one; pack it again, or drop it unpacked as .jsonl"
        raise Unreadable(Fault("bad_gzip", message)) from error
