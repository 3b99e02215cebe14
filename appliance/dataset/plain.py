"""The fast way through rows as nearly all chat datasets have them: messages of a role and a text, and nothing else.

Whole blocks of lines are decoded into types, and what is left to check is counted. Whatever is not quite plain makes
the block go the slow way, row by row, which also knows what to say. Pure.
"""

from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from appliance.dataset.census import SHORT_ANSWER, Census, Tally
from appliance.dataset.messages import turn_faults


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Meta(min_length=1)]


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: Annotated[list[_Message], Meta(min_length=1)]


_PAIR: Final = np.dtype("<u2")
_QUOTED_COLON: Final = int.from_bytes(b'":', "little")
_is_blank: Final = str.isspace
_decode_lines: Final = msgspec.json.Decoder(_Row).decode_lines


def count_plain_rows(block: bytes) -> Census | None:
    """What there is to know of a block of whole lines without a blank one, or None when it is not plain.

    A plain row is in its one form already. Of every row is shown: it is JSON in UTF-8, has nothing but messages, no
    key twice, known roles in an order one can learn from, and no empty text.
    """
    try:
        rows = _decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    census, messages = Census(), 0
    remember, seen = census.hashes.append, dict[tuple[str, ...], int]()
    for line, row in enumerate(rows, start=1):
        texts = [message.content for message in row.messages]
        roles = tuple([message.role for message in row.messages])
        messages += len(texts)
        if any(map(_is_blank, texts)):
            return None
        if roles not in seen:
            if turn_faults(roles, "messages"):
                return None
            seen[roles], census.orders[roles] = 0, Tally(0, line)
        seen[roles] += 1
        if len(texts[-1]) <= SHORT_ANSWER:
            census.note_short_answer(line, roles)
        remember(hash((roles, *texts)))
    # A blank line would be no row; it is not decoded at all.
    if _count_lines(block) != len(rows) or not _has_keys(block, len(rows) + 2 * messages):
        return None
    for order, count in seen.items():
        census.orders[order].rows = count
    census.rows = len(rows)
    return census


def _has_keys(block: bytes, count: int) -> bool:
    """Whether a block has just so many keys: the decoder keeps the last of two equal ones and says nothing.

    A quote before a colon ends a key, unless it is escaped. A space before a colon makes for one key too few.
    """
    colons = _count_quoted_colons(block)
    return colons == count or (b'\\\\"' not in block and colons - block.count(b'\\":') == count)


# NumPy compares a register of bytes at a time: `bytes.count` took a third of the whole check.
def _count_lines(block: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _count_quoted_colons(block: bytes) -> int:
    """How often a block has `":`: the pairs of bytes that begin at an even place, and those at an odd one."""
    pairs = (
        np.frombuffer(block, _PAIR, (len(block) - first) // 2, first) for first in (0, 1) if len(block) > first + 1
    )
    return sum(int(np.count_nonzero(found == _QUOTED_COLON)) for found in pairs)
