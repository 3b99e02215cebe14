"""Labels of whole conversations, family by family, against a method that has nothing in common with ours."""

import re
from functools import cache

import pytest
from transformers import AutoTokenizer
from transformers.utils import logging

from appliance.recipe import Recipe
from appliance.stages.training.labels.conversations import for_template, thought_key
from appliance.stages.training.labels.kit import conversation_kit
from appliance.stages.training.labels.labelling import NOT_TRAINED, Example, Failure, label
from appliance.stages.training.labels.rows import row_of
from tests.families import FAMILIES, PLAIN, THINKING, Family, assistant, conversations, trl, user, write_model

CREATED = 1_790_000_000.0
logging.set_verbosity_error()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The directory of a family's model, written once."""
    root = tmp_path_factory.mktemp("families")

    @cache
    def folder(name: str):
        family = next(family for family in FAMILIES if family.name == name)
        return write_model(family, root / name.replace(" ", "-"))

    return folder


def kit_for(folder, family: Family | None = None, *, created: float = CREATED, **keys):
    kwargs = family.kwargs if family else {}
    return conversation_kit(folder, Recipe(base_model="demo", chat_template_kwargs=kwargs, **keys), created=created)


def labelled(kit, rows: list[dict]) -> list[Example | Failure]:
    numbered = [row_of(fields, number=number) for number, fields in enumerate(rows, 1)]
    return list(label(numbered, kit.labeller, kit.control, kit.tokenizer.backend))


def shared(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Independent:
    """Labels by rendering prefix by prefix and comparing token ids; knows the family's turn ends beforehand.

    Where a later message changes how an earlier one is rendered, that cannot work: then turns are cut out of the
    ids between the family's header and its turn ends.
    """

    def __init__(self, folder, family: Family) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.kwargs = family.kwargs
        self.thought, self.headers = self.encode(family.thought), list(map(self.encode, family.headers))
        self.ends = set(self.tokenizer.convert_tokens_to_ids(list(family.ends)))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def ids(self, messages, tools, **more) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, return_dict=False, **self.kwargs, **more, strftime_now=lambda form: "21 Sep 2026"
        )

    def labels(self, messages, tools) -> tuple[list[int], list[int]]:
        plain = for_template(messages, thought_key(self.tokenizer.chat_template))
        ids = self.ids(plain, tools)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        turns = [self.turn(plain, tools, index, ids) for index in answers]
        if None in turns:
            turns = self.cut_out(ids)
        labels = [NOT_TRAINED] * len(ids)
        for index, (start, end) in zip(answers, turns, strict=True):
            if messages[index].get("weight", 1):
                labels[start:end] = ids[start:end]
        return ids, labels

    def turn(self, messages, tools, index: int, ids: list[int]) -> tuple[int, int] | None:
        prompt = self.ids(messages[:index], tools, add_generation_prompt=True)
        start = shared(ids, prompt)
        if start < len(prompt):
            # The rendered turn has another thought than the prompt, or none: it begins before the thought.
            if start < len(prompt) - len(self.thought):
                return None
            start = len(prompt) - len(self.thought)
        until = len(ids)
        if index + 1 < len(messages):
            # The next message with other words: what both renderings share ends inside the next message's beginning.
            other = {**messages[index + 1], "content": "\u2603"}
            until = shared(ids, self.ids([*messages[: index + 1], other, *messages[index + 2 :]], tools))
        return start, max(place + 1 for place in range(start, until) if ids[place] in self.ends)

    def cut_out(self, ids: list[int]) -> list[tuple[int, int]]:
        starts = [n for n in range(len(ids)) if any(ids[n - len(header) : n] == header for header in self.headers)]
        turns = []
        for start in starts:
            has_thought = self.thought and ids[start : start + len(self.thought)] == self.thought
            start += len(self.thought) if has_thought else 0
            turns.append((start, next(n + 1 for n in range(start, len(ids)) if ids[n] in self.ends)))
        return turns


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_equal_those_of_an_independent_method(models, family):
    folder = models(family.name)
    kit, independent = kit_for(folder, family), Independent(folder, family)
    cases = conversations(family)
    outcomes = labelled(
        kit, [{"messages": messages, **({"tools": tools} if tools else {})} for messages, tools in cases]
    )
    for (messages, tools), outcome in zip(cases, outcomes, strict=True):
        ids, labels = independent.labels(messages, tools)
        assert isinstance(outcome, Example), (messages, outcome)
        if "strftime_now" not in family.template:
            assert list(outcome.ids) == ids, messages
        assert kit.hf.decode(trained(outcome.labels)) == kit.hf.decode(trained(labels)), messages
        assert len(trained(outcome.labels)) == len(trained(labels))
        assert ends_of_turns(outcome.labels) <= independent.ends
        assert family.bos is None or list(outcome.ids).count(kit.hf.bos_token_id) == family.template.count("bos_token")


def trained(labels) -> list[int]:
    return [label for label in labels if label != NOT_TRAINED]


def ends_of_turns(labels) -> set[int]:
    """The last token of every run of trained tokens."""
    runs = zip(labels, [*labels[1:], NOT_TRAINED], strict=True)
    return {label for label, after in runs if label != NOT_TRAINED and after == NOT_TRAINED}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_control_tokens_in_a_row_are_read_as_plain_text(models, family):
    kit = kit_for(models(family.name), family)
    words = " ".join(["before", *kit.tokenizer.control_tokens, "after"])
    spelled = [user(f"What is {words}?"), assistant(f"That is {words}."), user("Thanks"), assistant("Bye")]
    harmless = [user("What is it?"), assistant("That is it."), user("Thanks"), assistant("Bye")]
    one, other = labelled(kit, [{"messages": spelled}, {"messages": harmless}])
    control = set(kit.tokenizer.control_tokens.values())

    assert [number for number in one.ids if number in control] == [number for number in other.ids if number in control]
    assert [label for label in one.labels if label in control] == [label for label in other.labels if label in control]
    assert kit.hf.decode(one.ids) == kit.hf.decode(other.ids).replace("it", words)
    assert one.control_tokens == 2 * len(control)
    assert other.control_tokens == 0


MARKED = [
    "llama3",
    "qwen2_5",
    "qwen3_instruct_2507",
    "gemma",
    "gemma3",
    "phi3_5",
    "cohere",
    "gptoss",
    "nemotron_3_nano",
]


THEIRS_ALONE = {
    "gptoss": ("<|start|>", "as", "sist", "ant"),
    "nemotron_3_nano": ("<think>",),
    "phi3_5": ("<|endoftext|>",),
}


@pytest.mark.parametrize("name", MARKED)
def test_labels_agree_with_the_marks_in_trls_training_templates(tmp_path, name):
    template, marked = trl(name), trl(f"{name}_training")
    tokens = tuple(dict.fromkeys(re.findall(r"<\|[a-zA-Z_]+\|>|<(?:start|end)_of_turn>", template)))
    ends = [
        end for end in tokens if re.search(r"eot|end_of|im_end|<\|end\|>|END_OF|return", end) and "header" not in end
    ]
    family = Family(name, template, tuple(ends), tokens, "<s>", "<|endoftext|>", words=THINKING)
    kit = kit_for(write_model(family, tmp_path / name))
    for messages in PLAIN:
        (outcome,) = labelled(kit, [{"messages": [{**message, "weight": 1} for message in messages]}])
        assert isinstance(outcome, Example)
        bare = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        theirs = kit.hf.apply_chat_template(
            bare,
            chat_template=marked,
            return_assistant_tokens_mask=True,
            return_dict=True,
            strftime_now=lambda form: "2026-09-21",
        )
        if list(outcome.ids) != theirs["input_ids"]:
            # TRL changed what is rendered, for the sake of the marks.
            continue
        # Theirs go on after the turn's end, and some begin with what the prompt has already.
        extra = [
            n
            for n, (ours, mask) in enumerate(zip(outcome.labels, theirs["assistant_masks"], strict=True))
            if (ours != NOT_TRAINED) != mask
        ]
        assert set(kit.hf.convert_ids_to_tokens([outcome.ids[n] for n in extra])) <= {"Ċ", *THEIRS_ALONE.get(name, ())}
        assert all(theirs["assistant_masks"][n] for n in extra)
