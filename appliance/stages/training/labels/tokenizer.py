"""The base model's tokenizer as it is trained with: chat template settled, pad token no stop token."""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.chat_templates import KNOWN, known_template, usable_names
from appliance.errors import InputError, Problem, Reason

# Names that tokenizers give to tokens nobody else uses.
SPARE: Final = (re.compile("pad", re.IGNORECASE), re.compile("reserved|unused", re.IGNORECASE))


@dataclass(frozen=True)
class Tokenizer:
    """A Transformers tokenizer with what training needs to know about it.

    `known_stops` are the tokens that the model's configuration names as its end; `bos_id` is set when the tokenizer
    begins plain text with it.
    """

    hf: Any
    control_tokens: dict[str, int]
    known_stops: tuple[str, ...]
    bos_id: int | None
    pad_id: int

    @property
    def backend(self) -> Any:  # noqa: ANN401 - tokenizers.Tokenizer
        return self.hf.backend_tokenizer

    def id_of(self, token: str) -> int:
        return int(self.backend.token_to_id(token))


def hide_torch() -> None:
    """Let Transformers believe that there is no torch: a tokenizer needs none, and it costs seconds and 330 MB.

    Only for a process of its own, before the first import of Transformers.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]


def load_tokenizer(folder: Path, chat_template: str | None, *, conversational: bool) -> Tokenizer:
    """The tokenizer of the model in `folder`, with the recipe's `chat_template` in place of its own if one is named.

    Raises InputError when there is no usable tokenizer, template or pad token.
    """
    from transformers import AutoTokenizer

    try:
        hf = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # Libraries and files of all kinds are behind this; none of their errors has a type of its own.
        raise InputError([_unusable(f"it cannot be loaded: {error}")]) from error
    if not getattr(hf, "is_fast", False):
        raise InputError([_unusable("it has no tokenizer.json, nor files that one can be made from")])
    hf.backend_tokenizer.no_truncation()
    hf.backend_tokenizer.no_padding()
    control = {token.content: number for number, token in hf.added_tokens_decoder.items() if token.special}
    bos_id = _own_bos(hf)
    if conversational:
        _settle_template(hf, chat_template, begins_with_bos=bos_id is not None)
    stops = tuple(dict.fromkeys(_known_stops(hf, folder)))
    pad_id = _settle_pad(hf, control, {hf.convert_tokens_to_ids(stop) for stop in stops})
    return Tokenizer(hf, control, stops, bos_id, pad_id)


def _own_bos(hf: Any) -> int | None:  # noqa: ANN401 - any Transformers tokenizer
    """The BOS token's id if the tokenizer puts it before plain text."""
    ids = hf.backend_tokenizer.encode("x", add_special_tokens=True).ids
    return hf.bos_token_id if hf.bos_token_id is not None and ids[0] == hf.bos_token_id else None


def _settle_template(hf: Any, name: str | None, *, begins_with_bos: bool) -> None:  # noqa: ANN401
    if name is None and hf.chat_template:
        return
    tokens = hf.added_tokens_encoder
    usable = usable_names(tokens) if hf.eos_token else []
    if name not in usable:
        raise InputError([_no_template(name, usable)])
    hf.chat_template = known_template(name, tokens=tokens, begins_with_bos=begins_with_bos)


def _known_stops(hf: Any, folder: Path) -> Iterator[str]:  # noqa: ANN401
    """The tokens at which generation stops, by the model's own files."""
    for name in ("generation_config.json", "config.json"):
        if not (folder / name).is_file():
            continue
        config = json.loads((folder / name).read_text())
        ids = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
        tokens = [
            hf.convert_ids_to_tokens(number)
            for number in (ids if isinstance(ids, list) else [ids])
            if number is not None
        ]
        yield from (token for token in tokens if token is not None)
    if hf.eos_token:
        yield hf.eos_token


def _settle_pad(hf: Any, control: dict[str, int], stops: set[int]) -> int:  # noqa: ANN401
    """The pad token's id: the tokenizer's own, or, when that is missing or ends a turn, a token nobody else uses.

    Trainers mask the pad token; if it were the stop token, stopping would never be learnt.
    """
    if hf.pad_token_id is not None and hf.pad_token_id not in stops:
        return int(hf.pad_token_id)
    spare = (token for pattern in SPARE for token in control if pattern.search(token))
    candidates = [token for token in (*spare, hf.unk_token) if token and hf.convert_tokens_to_ids(token) not in stops]
    if not candidates:
        raise InputError([_no_pad(hf.pad_token or hf.eos_token)])
    hf.pad_token = candidates[0]
    return int(hf.pad_token_id)


def _unusable(why: str) -> Problem:
    return Problem(
        code="tokenizer_unusable",
        message=f"the base model's tokenizer cannot be used: {why}",
        reason=Reason.LABELS,
        key="base_model",
    )


def _no_template(name: str | None, usable: list[str]) -> Problem:
    would_do = f"chat_template: {' or '.join(usable)} would do" if usable else "none of the known ones would do"
    lacks = f"its tokenizer cannot use {name}" if name in KNOWN else "it has no chat template of its own"
    return Problem(
        code="chat_template_missing",
        message=f"the base model cannot be trained on conversations as it is, because {lacks}; {would_do}",
        reason=Reason.LABELS,
        key="chat_template",
        found=name,
        expected=" or ".join(usable) or None,
    )


def _no_pad(token: str | None) -> Problem:
    return Problem(
        code="pad_is_stop",
        message=f"the base model pads with {token}, the token that ends a turn, and has no spare token to pad with: "
        "training would mask the end of every answer",
        reason=Reason.LABELS,
        key="base_model",
        found=token,
        expected="a base model whose tokenizer has a pad token of its own",
    )
