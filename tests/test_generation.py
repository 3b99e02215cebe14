"""Whether an answer came to an end, told from real generation by the demo model."""

from types import SimpleNamespace

import pytest

from appliance.stages.training.generation import (
    FEWEST_TOKENS,
    MOST_TOKENS,
    Answer,
    Prompt,
    answers,
    longest_answer,
    stop_rate,
)
from tests.training_jobs import DEMO

STOP, PAD, NEVER = 2, 0, 4095


@pytest.fixture(scope="module")
def demo():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return SimpleNamespace(
        model=AutoModelForCausalLM.from_pretrained(DEMO).eval(), tokenizer=AutoTokenizer.from_pretrained(DEMO)
    )


def ask_demo(demo, *words, stop=STOP, answer_tokens_p95=8, max_seconds=60.0, show_life=lambda: None):
    talks = [[{"role": "user", "content": f"Repeat: {word}"}] for word in words]
    texts = [demo.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
    prompts = [Prompt({"prompt_ids": demo.tokenizer(text, add_special_tokens=False).input_ids}) for text in texts]
    return answers(
        demo.model,
        demo.tokenizer,
        prompts,
        stop_token_ids=[stop],
        pad_token_id=PAD,
        answer_tokens_p95=answer_tokens_p95,
        max_seconds=max_seconds,
        show_life=show_life,
    )


def test_answers_in_one_batch_end_each_at_its_own_stop_token(demo):
    assert ask_demo(demo, "form page", "spent of art year things") == [
        Answer("form page", True),
        Answer("spent of art year things", True),
    ]


def test_an_answer_that_uses_up_all_the_room_does_not_stop(demo):
    (answer,) = ask_demo(demo, "river", stop=NEVER)

    assert answer.stopped is False


@pytest.mark.parametrize("answer_tokens_p95", [MOST_TOKENS, None], ids=["long answers", "a text"])
def test_the_limit_says_nothing_where_answers_may_be_longer(demo, answer_tokens_p95, monkeypatch):
    monkeypatch.setattr("appliance.stages.training.generation.MOST_TOKENS", 48)

    (cut,) = ask_demo(demo, "river", stop=NEVER, answer_tokens_p95=answer_tokens_p95)
    (ended,) = ask_demo(demo, "river", answer_tokens_p95=answer_tokens_p95)

    assert (cut.stopped, ended.stopped) == (None, True)


def test_the_end_of_the_time_says_nothing(demo):
    (cut,) = ask_demo(demo, "river stone", max_seconds=-1.0)

    assert cut.stopped is None


def test_every_token_is_a_sign_of_life(demo):
    signs = []

    ask_demo(demo, "river", stop=NEVER, show_life=lambda: signs.append(1))

    assert len(signs) == FEWEST_TOKENS


def test_answers_get_half_as_much_room_again_as_nearly_all_of_the_dataset_need():
    assert longest_answer(100) == 150
    assert longest_answer(3) == longest_answer(None) == FEWEST_TOKENS
    assert longest_answer(10_000) == MOST_TOKENS


def test_the_stop_rate_needs_every_answer_to_tell():
    ended, endless, cut = Answer("a", True), Answer("b", False), Answer("c", None)

    assert stop_rate([ended, ended, ended, endless]) == 0.75
    assert stop_rate([ended, cut]) is None
