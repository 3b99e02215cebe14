"""Words never become control tokens: `</s>` in a row is five characters, not the end of a turn.

Before a row is rendered, each control token in it is replaced by a private-use character; the template's own stay as
they are. Such a text is then tokenised by a copy of the tokenizer in which the two have changed places: the private-use
character is the control token there, and its old spelling is ordinary text.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from tokenizers import Tokenizer as Backend

from appliance.stages.training.labels.literals import any_of, any_of_bytes

# Private-use characters of plane 16; the marks of `marks` are of plane 15. In UTF-8 all of them begin like this.
FIRST_STAND_IN: Final = 0x100000
PRIVATE_USE: Final = re.compile(rb"\xf3[\xb0-\xbf]|\xf4")
STAND_IN: Final = re.compile("[\U00100000-\U0010fffd]")
# A thought may be written out in an answer; templates look for it there.
THOUGHTS: Final = re.compile("think", re.IGNORECASE)


class NotNeutral(Exception):
    """Control tokens in a row cannot be told from the template's own."""


class ControlTokens:
    """The tokens that steer the model, as the tokenizer spells them."""

    def __init__(self, backend: Backend, tokens: Mapping[str, int]) -> None:
        self._backend = backend
        spelled = [token for token in tokens if not THOUGHTS.search(token)]
        self.ids = frozenset(tokens[token] for token in spelled)
        self._stand_ins = {token: chr(FIRST_STAND_IN + number) for number, token in enumerate(spelled)}
        self._swap = self._stand_ins | {stand_in: token for token, stand_in in self._stand_ins.items()}
        self._spelled = any_of(spelled)
        self._either = any_of(self._swap)
        self._in_json = any_of_bytes(json.dumps(token, ensure_ascii=False)[1:-1] for token in spelled)

    def count_in(self, content: bytes) -> int:
        """How many control tokens the JSON of a row spells out."""
        return len(self._in_json.findall(content))

    def hide(self, value: Any, content: bytes) -> Any:  # noqa: ANN401 - any JSON value
        """The same row with stand-ins for control tokens. `content` is its JSON. Raises NotNeutral."""
        self.refuse_ambiguous(content)
        return self._hide(value)

    def refuse_ambiguous(self, content: bytes) -> None:
        """Raise NotNeutral for a row that has characters which stand for control tokens here."""
        if PRIVATE_USE.search(content):
            raise NotNeutral("the row has both control tokens and private-use characters, which stand for them here")

    def _hide(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, str):
            return self._spelled.sub(lambda found: self._stand_ins[found.group()], value)
        if isinstance(value, Mapping):
            return {self._hide(key): self._hide(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(entry) for entry in value]
        return value

    def swap(self, text: str, places: Sequence[int]) -> tuple[str, list[int]]:
        """The text as `swapped_backend` reads it, and where places of the old text are in the new one."""
        pieces, ends, shifts = [], [0], [0]
        position = 0
        for found in self._either.finditer(text):
            other = self._swap[found.group()]
            pieces += [text[position : found.start()], other]
            position = found.end()
            ends.append(position)
            shifts.append(shifts[-1] + len(other) - len(found.group()))
        pieces.append(text[position:])
        return "".join(pieces), [place + shifts[bisect_right(ends, place) - 1] for place in places]

    def is_neutral(self, swapped_text: str, ids: Iterable[int]) -> bool:
        """Whether the tokens of a swapped text are control tokens exactly where the template put them."""
        return sum(number in self.ids for number in ids) == len(STAND_IN.findall(swapped_text))

    def swapped_backend(self) -> Backend:
        """The tokenizer in which stand-ins are the control tokens. Raises NotNeutral when it cannot be made."""
        if isinstance(self._swapped, NotNeutral):
            raise self._swapped
        return self._swapped

    @cached_property
    def _swapped(self) -> Backend | NotNeutral:
        try:
            return self._make_swapped()
        except NotNeutral as error:
            return error

    def _make_swapped(self) -> Backend:
        value = json.loads(self._backend.to_str())
        for token in value["added_tokens"]:
            token["content"] = self._stand_ins.get(token["content"], token["content"])
        model = value["model"]
        model["vocab"] = self._renamed(model["vocab"])
        if "unk_token" in model:
            model["unk_token"] = self._stand_ins.get(model["unk_token"], model["unk_token"])
        try:
            backend = Backend.from_str(json.dumps(value))
        except Exception as error:
            # The Rust library raises bare Exceptions.
            raise NotNeutral(f"the tokenizer cannot do without its control tokens: {error}") from error
        if any(backend.token_to_id(self._stand_ins[t]) != self._backend.token_to_id(t) for t in self._stand_ins):
            raise NotNeutral("the tokenizer numbers its control tokens by their spelling")
        return backend

    def _renamed(self, vocabulary: Any) -> Any:  # noqa: ANN401 - a table or a list of pairs, by kind of model
        if isinstance(vocabulary, Mapping):
            return {self._stand_ins.get(token, token): number for token, number in vocabulary.items()}
        return [[self._stand_ins.get(token, token), score] for token, score in vocabulary]
