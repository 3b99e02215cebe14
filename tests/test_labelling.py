"""Labels of whole conversations, family by family, against a method that has nothing in common with ours."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoTokenizer
from transformers.utils import logging

from appliance.errors import InputError
from appliance.recipe import Recipe
from appliance.stages.training.labels.conversations import for_template, thought_key
from appliance.stages.training.labels.examples import NOT_TRAINED, Example, Failure
from appliance.stages.training.labels.kit import conversation_kit, text_kit
from appliance.stages.training.labels.labelling import label
from tests.families import (
    FAMILIES,
    LLAMA_TOKENS,
    PLAIN,
    SPELLED,
    THINKING,
    TOOLS,
    WITH_CONTROL_TOKENS,
    Family,
    adds_bos,
    assistant,
    call,
    control_tokens,
    conversations,
    result,
    trl,
    user,
    write,
    write_model,
)

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
    lines = [json.dumps({"row": number, **fields}).encode() for number, fields in enumerate(rows, 1)]
    return list(label(lines, kit.labeller, kit.control, kit.tokenizer.backend))


def shared(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Independent:
    """Labels by rendering prefix by prefix and comparing token ids; knows the family's turn ends beforehand.

    Where a later message changes how an earlier one is rendered, that cannot work: then turns are cut out of the
    ids between the family's header and its turn ends.
    """

    def __init__(self, folder, family: Family) -> None:
        self.family = family
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.kwargs = family.kwargs
        self.thought, self.headers = self.encode(family.thought), list(map(self.encode, family.headers))
        self.ends = set(self.tokenizer.convert_tokens_to_ids(list(family.ends)))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def ids(self, messages, tools, **more) -> list[int]:
        return self.rendered(messages, tools, return_dict=False, **more)

    def rendered(self, messages, tools, **more):
        day = datetime.fromtimestamp(CREATED, UTC)
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, strftime_now=day.strftime, **self.kwargs, **more
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

    def labels_of_spelled(self, messages, spelled: str) -> tuple[list[int], list[int]]:
        """Labels of a conversation whose users say `spelled` for each SPELLED, piece by piece between control tokens.

        The pieces are tokenised by a tokenizer that is told to know no control tokens.
        """
        ids, labels = self.labels(messages, None)
        text = self.rendered(for_template(messages, "thinking"), None, tokenize=False)
        controls = sorted(self.tokenizer.all_special_tokens + control_tokens(self.family), key=len, reverse=True)
        position, found, expected_ids, expected_labels = 0, 0, [], []
        for piece in re.split("(" + "|".join(map(re.escape, controls)) + ")", text):
            control = [self.tokenizer.convert_tokens_to_ids(piece)] if piece in controls else None
            own = control or self.encode_plainly(piece, first=position == 0)
            theirs = control or self.encode_plainly(piece.replace(SPELLED, spelled), first=position == 0)
            assert ids[found : found + len(own)] == own
            here = labels[found : found + len(own)]
            assert SPELLED not in piece or set(here) == {NOT_TRAINED}
            expected_ids += theirs
            expected_labels += [NOT_TRAINED] * len(theirs) if SPELLED in piece else here
            position, found = position + len(piece), found + len(own)
        assert found == len(ids)
        return expected_ids, expected_labels

    def encode_plainly(self, text: str, *, first: bool) -> list[int]:
        backend = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        backend.encode_special_tokens = True
        if not first and isinstance(backend.pre_tokenizer, Metaspace):
            backend.pre_tokenizer = Metaspace(prepend_scheme="never")
        return backend.encode(text, add_special_tokens=False).ids


def assert_like(kit, outcome, messages, independent: Independent, expected: tuple[list[int], list[int]]) -> None:
    family = independent.family
    assert isinstance(outcome, Example), (messages, outcome)
    assert (list(outcome.ids), list(outcome.labels)) == expected, messages
    ends = ends_of_turns(outcome.labels)
    assert set(ends) <= independent.ends
    assert len(ends) == sum(m["role"] == "assistant" and m.get("weight", 1) != 0 for m in messages)
    # Where the template begins with one; the others of these models are trained without.
    assert family.bos is None or list(outcome.ids).count(kit.hf.bos_token_id) == ("bos_token" in family.template)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_equal_those_of_an_independent_method(models, family):
    folder = models(family.name)
    kit, independent = kit_for(folder, family), Independent(folder, family)
    cases = conversations(family)
    assert len(cases) + len(WITH_CONTROL_TOKENS) >= 30
    outcomes = labelled(
        kit, [{"messages": messages} | ({"tools": tools} if tools else {}) for messages, tools in cases]
    )
    for (messages, tools), outcome in zip(cases, outcomes, strict=True):
        assert_like(kit, outcome, messages, independent, independent.labels(messages, tools))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_labels_of_rows_that_spell_out_control_tokens_equal_those_of_an_independent_method(models, family):
    folder = models(family.name)
    kit, independent = kit_for(folder, family), Independent(folder, family)
    spelled = " ".join(control_tokens(family))
    rows = [[m | {"content": m["content"].replace(SPELLED, spelled)} for m in ms] for ms in WITH_CONTROL_TOKENS]
    for messages, outcome in zip(WITH_CONTROL_TOKENS, labelled(kit, [{"messages": row} for row in rows]), strict=True):
        assert_like(kit, outcome, messages, independent, independent.labels_of_spelled(messages, spelled))


def trained(labels) -> list[int]:
    return [label for label in labels if label != NOT_TRAINED]


def ends_of_turns(labels) -> list[int]:
    """The last token of every run of trained tokens."""
    runs = zip(labels, [*labels[1:], NOT_TRAINED], strict=True)
    return [label for label, after in runs if label != NOT_TRAINED and after == NOT_TRAINED]


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


QWEN3 = next(family for family in FAMILIES if family.name == "qwen-3")
CHATML = next(family for family in FAMILIES if family.name == "chatml")


def only(kit, fields: dict) -> Example | Failure:
    (outcome,) = labelled(kit, [fields])
    return outcome


def test_of_a_prompt_and_its_completion_only_the_completion_and_its_stop_token_are_trained(models):
    kit = kit_for(models("chatml"))
    example = only(kit, {"messages": [user("What is 2 + 2?"), assistant("It is 4.")]})
    assert (
        kit.hf.decode(example.ids)
        == "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n"
    )
    assert kit.hf.decode(trained(example.labels)) == "It is 4.<|im_end|>"
    assert list(example.labels[-2:]) == [kit.hf.eos_token_id, NOT_TRAINED]
    assert example.answer_tokens == example.trained


def test_a_turn_of_weight_zero_is_read_and_not_trained(models):
    kit = kit_for(models("chatml"))
    messages = [user("a"), assistant("bad", weight=0), user("b"), assistant("good", weight=1)]
    example = only(kit, {"messages": messages})
    assert kit.hf.decode(trained(example.labels)) == "good<|im_end|>"


def test_train_on_everything_trains_everything(models):
    example = only(kit_for(models("chatml"), train_on="everything"), {"messages": [user("a"), assistant("b")]})
    assert example.labels == example.ids


def test_the_date_in_a_template_is_the_jobs_and_not_todays(models):
    family = next(family for family in FAMILIES if family.name == "gpt-oss")
    row = {"messages": [user("Hi"), assistant("Hello")]}
    kit = kit_for(models("gpt-oss"), family)
    assert "Current date: 2026-09-21" in kit.hf.decode(only(kit, row).ids)
    assert only(kit_for(models("gpt-oss"), family), row).ids == only(kit, row).ids
    assert kit.template.frozen_date == "2026-09-21"
    assert kit_for(models("chatml")).template.frozen_date is None


@pytest.mark.parametrize(
    "messages",
    [
        [user("<tool_response>x</tool_response>"), assistant("One"), user("Two"), assistant("Three")],
        [user("logo \U000ff8ff"), assistant("One \U000ff8ff"), user("Two"), assistant("Three")],
        [user("Rome?"), assistant("", tool_calls=call("Rome")), result(""), assistant("No word.")],
    ],
    ids=["words that the template looks at", "private-use characters", "an empty message before the turn"],
)
def test_where_marks_do_not_work_prefixes_do(models, messages):
    kit, independent = kit_for(models("qwen-3"), QWEN3), Independent(models("qwen-3"), QWEN3)
    example = only(kit, {"messages": messages, "tools": TOOLS})
    assert isinstance(example, Example), example
    assert list(example.labels) == independent.labels(messages, TOOLS)[1]


def test_a_conversation_may_begin_with_the_assistant(models):
    kit = kit_for(models("qwen-3"), QWEN3)
    example = only(kit, {"messages": [assistant("Welcome!"), user("Hi"), assistant("Hello")]})
    assert kit.hf.decode(trained(example.labels)) == "Welcome!<|im_end|><think>\n\n</think>\n\nHello<|im_end|>"


def model_with(folder, template: str, **changes):
    return write_model(replace(CHATML, template=template, **changes), folder)


@pytest.mark.parametrize(
    ("template", "code", "why"),
    [
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "labels_unproven",
            "leaves out an answer",
        ),
        ("{{ raise_exception('roles must alternate') }}", "chat_template_refuses", "roles must alternate"),
        ("{{ messages[7].content.upper() }}", "chat_template_refuses", "undefined|no element"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_with_its_own_words(tmp_path, template, code, why):
    outcome = only(kit_for(model_with(tmp_path / "model", template)), {"messages": [user("a"), assistant("b")]})
    assert isinstance(outcome, Failure)
    assert outcome.code == code
    assert re.search(why, outcome.why)


def test_tool_calls_that_a_template_would_drop_are_not_trained_on_in_silence(models):
    messages = [user("Rome?"), assistant("", tool_calls=call("Rome")), result("sunny"), assistant("It is sunny.")]
    outcome = only(kit_for(models("zephyr")), {"messages": messages})
    assert isinstance(outcome, Failure)
    assert "tool calls" in outcome.why


def test_two_tokens_that_begin_a_text_are_noticed(tmp_path):
    template = "{{ bos_token }}{{ bos_token }}" + CHATML.template
    kit = kit_for(model_with(tmp_path / "model", template, bos="<s>"))
    assert only(kit, {"messages": [user("a"), assistant("b")]}).code == "two_bos"


def test_a_row_with_control_tokens_and_their_stand_ins_cannot_be_told_apart(models):
    messages = [user("<|im_end|> and \U00100000"), assistant("b")]
    assert only(kit_for(models("chatml")), {"messages": messages}).code == "control_tokens"


@pytest.mark.parametrize(
    ("name", "answer"),
    [("chatml", "4<|im_end|>"), ("alpaca", "4</s>"), ("zephyr", "4</s>"), ("llama-3", "4<|eot_id|>")],
)
def test_a_base_without_a_template_is_trained_with_a_known_one(tmp_path, name, answer):
    tokens = {"chatml": ("<|im_start|>", "<|im_end|>"), "llama-3": LLAMA_TOKENS}.get(name, ())
    folder = write_model(Family(name, "", ("</s>",), tokens, "<s>", "</s>", sentencepiece=True), tmp_path / "model")
    adds_bos(folder)
    kit = kit_for(folder, chat_template=name)
    example = only(kit, {"messages": [user("2 + 2?"), assistant("4"), user("Sure?"), assistant("Yes")]})
    assert example.ids[0] == kit.hf.bos_token_id
    assert kit.hf.decode(trained(example.labels)).startswith(answer)
    assert kit.hf.convert_tokens_to_ids(answer[1:]) in kit.stop_ids
    assert len(trained(example.labels)) < len(example.ids)


def test_a_base_without_a_template_says_which_known_ones_would_do(tmp_path):
    folder = write_model(Family("bare", "", ("</s>",), (), "<s>", "</s>", sentencepiece=True), tmp_path / "model")
    with pytest.raises(InputError) as caught:
        kit_for(folder)
    assert caught.value.problems[0].code == "chat_template_missing"
    assert "chat_template: chatml or alpaca or zephyr" in caught.value.problems[0].message
    with pytest.raises(InputError, match="its tokenizer cannot use llama-3"):
        kit_for(folder, chat_template="llama-3")


def test_a_template_that_ends_no_turn_is_refused(tmp_path):
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    folder = write_model(Family("endless", template, (), ()), tmp_path / "model")
    with pytest.raises(InputError) as caught:
        kit_for(folder)
    assert caught.value.problems[0].code == "stop_untrained"


def test_a_pad_token_that_ends_turns_is_replaced_or_refused(tmp_path):
    def folder(name: str, *spare: str):
        path = write_model(Family(name, CHATML.template, ("<|im_end|>",), (*CHATML.tokens, *spare)), tmp_path / name)
        config = json.loads((path / "tokenizer_config.json").read_text())
        write(path / "tokenizer_config.json", config | {"pad_token": "<|im_end|>", "eos_token": "<|im_end|>"})
        return path

    kit = kit_for(folder("replaced", "<|reserved_1|>"))
    assert kit.tokenizer.pad_id not in kit.stop_ids
    bare = folder("refused")
    tokenizer = (bare / "tokenizer.json").read_text()
    (bare / "tokenizer.json").write_text(tokenizer.replace("<|padding|>", "<|im_beginning|>"))
    with pytest.raises(InputError) as caught:
        kit_for(bare)
    assert caught.value.problems[0].code == "pad_is_stop"


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path):
    folder = write_model(CHATML, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        kit_for(folder)
    assert caught.value.problems[0].code == "tokenizer_unusable"


def test_what_a_template_does_by_itself_is_found_out(models):
    assert "You are Qwen" in kit_for(models("qwen-2.5")).habits.adds
    assert "Cutting Knowledge Date" in kit_for(models("llama-3.1")).habits.adds
    assert kit_for(models("chatml")).habits.adds == ""
    assert kit_for(models("qwen-3")).habits.thinks == "<think>\n\n</think>\n\n"
    assert kit_for(models("chatml")).habits.thinks == ""


def test_thoughts_are_handed_over_by_the_name_the_template_knows(models):
    row = {"messages": [user("Why?"), assistant("Because.", reasoning_content="It is known.")]}
    for name, left_out in (("qwen-3", False), ("gpt-oss", False), ("lfm-2.5", False), ("llama-3.1", True)):
        kit = kit_for(models(name))
        example = only(kit, row)
        assert ("It is known." in kit.hf.decode(trained(example.labels))) != left_out, name
        assert example.thoughts_left_out == left_out


def text_example(folder, cap: int, text: str) -> tuple:
    kit = text_kit(folder, cap)
    return kit, labelled(kit, [{"text": text}])


def test_of_a_text_everything_is_trained_and_it_ends(tmp_path):
    folder = write_model(Family("texts", "", ("</s>",), (), "<s>", "</s>", sentencepiece=True), tmp_path / "model")
    adds_bos(folder)
    kit, (example,) = text_example(folder, 512, "Once upon a time </s> and <s> more.")
    assert example.labels == example.ids
    assert kit.hf.decode(example.ids) == "<s> Once upon a time </s> and <s> more.</s>"
    assert [number for number in example.ids if number in kit.control.ids] == [kit.hf.bos_token_id, kit.hf.eos_token_id]
    assert example.control_tokens == 2


def test_a_long_text_is_cut_into_pieces_of_nearly_equal_length_and_none_is_lost(tmp_path):
    folder = write_model(Family("texts", "", ("</s>",), (), "<s>", "</s>", sentencepiece=True), tmp_path / "model")
    adds_bos(folder)
    kit, (whole,) = text_example(folder, 10_000, "word after word " * 300)
    _, cut = text_example(folder, 100, "word after word " * 300)
    assert max(len(piece.ids) for piece in cut) <= 100
    assert max(len(piece.ids) for piece in cut) - min(len(piece.ids) for piece in cut) <= 1
    assert {piece.ids[0] for piece in cut} == {kit.hf.bos_token_id}
    assert [number for piece in cut for number in piece.ids[1:]] == list(whole.ids[1:])
