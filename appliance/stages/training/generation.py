"""Sample answers of the base and of the tuned model to the same prompts, generated greedily in one batch each."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

FEWEST_TOKENS = 32
MOST_TOKENS = 512
# An answer half as long again as all but the longest must have found its end by then.
ROOM = 1.5


@dataclass(frozen=True)
class Prompt:
    """One line of `prepare/samples.jsonl`."""

    entry: dict[str, Any]

    @property
    def ids(self) -> list[int]:
        ids: list[int] = self.entry["prompt_ids"]
        return ids


@dataclass(frozen=True)
class Answer:
    """What was generated. `stopped` is None when it was cut off before that could be told."""

    text: str
    stopped: bool | None


def read_prompts(path: Path) -> list[Prompt]:
    return [Prompt(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def longest_answer(answer_tokens_p95: int | None) -> int:
    """How many tokens to generate at most, from the length of the dataset's own answers."""
    wanted = math.ceil((answer_tokens_p95 or 0) * ROOM)
    return min(max(wanted, FEWEST_TOKENS), MOST_TOKENS)


def allows_for(answer_tokens_p95: int | None) -> bool:
    """Whether answers may grow long enough to tell an answer that does not end from one that is merely long."""
    return answer_tokens_p95 is not None and answer_tokens_p95 * ROOM <= MOST_TOKENS


def answers(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    *,
    stop_token_ids: list[int],
    pad_token_id: int,
    answer_tokens_p95: int | None,
    max_seconds: float,
    show_life: Callable[[], None],
) -> list[Answer]:
    """Greedy answers to all prompts at once; whoever is not done after `max_seconds` is cut off.

    `show_life` is called after every token: with a large model they take a good while.
    """
    max_new_tokens = longest_answer(answer_tokens_p95)
    longest = max(len(prompt.ids) for prompt in prompts)
    padded = [[pad_token_id] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts]
    mask = [[0] * (longest - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts]
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        max_time=max_seconds,
        eos_token_id=stop_token_ids,
        pad_token_id=pad_token_id,
    )
    generated = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_AfterEachToken(show_life)]),
    )
    new = generated[:, longest:].tolist()
    # Cut off by the clock, or by the limit where answers are longer than it, an answer may well have been about to end.
    may_go_on = len(new[0]) < max_new_tokens or not allows_for(answer_tokens_p95)
    return [_answer(ids, tokenizer, set(stop_token_ids), otherwise=None if may_go_on else False) for ids in new]


class _AfterEachToken(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing: it is what `generate` calls after every token."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def __call__(self, input_ids: torch.Tensor, scores: object, **rest: object) -> torch.Tensor:
        self._call()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _answer(
    ids: list[int], tokenizer: PreTrainedTokenizerBase, stop_tokens: set[int], *, otherwise: bool | None
) -> Answer:
    end = next((index for index, token in enumerate(ids) if token in stop_tokens), None)
    text: str = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return Answer(text, stopped=otherwise if end is None else True)


def stop_rate(given: list[Answer]) -> float | None:
    """The share of answers that came to an end; None when some were cut off before that could be told."""
    stopped = [answer.stopped for answer in given if answer.stopped is not None]
    return sum(stopped) / len(given) if len(stopped) == len(given) else None
