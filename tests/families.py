"""Chat template families to test with: their templates, tokenizers that have their control tokens, and conversations.

Most templates come from the installed TRL package, which keeps the models' own; the others are written here after the
format that the named repository documents. The vocabulary behind them is the demo model's, or, where a family uses
SentencePiece, a small one of that kind.
"""

import importlib.util
import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TRL = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
DEMO = Path(str(files("appliance"))) / "demo" / "model"

# Format of mistralai/Mistral-7B-Instruct-v0.3: the system prompt goes into the last question.
MISTRAL = """\
{%- set before = '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' if tools else '' %}
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set loop_messages = messages[1:] %}
{%- else %}{% set loop_messages = messages %}{% endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in loop_messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in loop_messages %}
    {%- if m.role == 'user' %}
        {{- (before if loop.index0 == ns.last else '') + '[INST] ' }}
        {{- (system + '\\n\\n' if system is defined and loop.index0 == ns.last else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id + '"}' }}
        {{- '[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('Only user, assistant, system and tool roles are supported') }}
    {%- endif %}
{%- endfor %}"""

# Format of HuggingFaceH4/zephyr-7b-beta.
ZEPHYR = """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

# Format of microsoft/phi-4.
PHI4 = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""


@dataclass(frozen=True)
class Family:
    """`ends` are the tokens that may end a turn, by the model's documentation."""

    name: str
    template: str
    ends: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    bos: str | None = None
    eos: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    sentencepiece: bool = False
    # What a conversation of this family cannot have.
    lacks: tuple[str, ...] = ()
    # The empty thought that asks for an answer without one; earlier turns of a conversation do not have it.
    thought: str = ""
    # What may stand before an answer, by the model's documentation.
    headers: tuple[str, ...] = ()
    # Tokens of their own that are ordinary words to the tokenizer: not special.
    words: tuple[str, ...] = ()


def trl(name: str) -> str:
    return (TRL / f"{name}.jinja").read_text()


CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
LLAMA_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|eom_id|>")
HARMONY = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>")
THINKING = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
QWEN = {
    "tokens": CHATML_TOKENS,
    "eos": "<|im_end|>",
    "headers": ("<|im_start|>assistant\n",),
    "words": THINKING,
}
IM_END = ("<|im_end|>",)
TURN = ("<start_of_turn>", "<end_of_turn>")

NO_THOUGHT = "<think>\n\n</think>\n\n"

FAMILIES = [
    Family("llama-3.1", trl("llama3_1"), ("<|eot_id|>",), LLAMA_TOKENS, "<|begin_of_text|>", "<|eot_id|>"),
    Family("llama-3.2", trl("llama3_2"), ("<|eot_id|>",), LLAMA_TOKENS, "<|begin_of_text|>", "<|eot_id|>"),
    Family("qwen-2.5", trl("qwen2_5"), IM_END, **QWEN),
    Family("qwen-3", trl("qwen3"), IM_END, **QWEN),
    Family("qwen-3 thinking", trl("qwen3"), IM_END, kwargs={"enable_thinking": True}, **QWEN),
    Family("qwen-3 not thinking", trl("qwen3"), IM_END, kwargs={"enable_thinking": False}, thought=NO_THOUGHT, **QWEN),
    Family("qwen-3.5", trl("qwen3_5_nothink"), IM_END, thought=NO_THOUGHT, **QWEN),
    Family("qwen-3.6 thinking", trl("qwen3_6"), IM_END, thought="<think>\n", **QWEN),
    Family("nemotron-3", trl("nemotron_3_nano"), IM_END, thought="\n", **QWEN),
    Family("chatml", trl("qwen3_instruct_2507"), IM_END, **QWEN),
    Family("gpt-oss", trl("gptoss"), ("<|end|>", "<|return|>", "<|call|>"), HARMONY, "<|startoftext|>", "<|return|>"),
    Family("lfm-2.5", trl("lfm2_2_5"), IM_END, ("<|im_start|>", "<|im_end|>"), "<|startoftext|>", "<|im_end|>"),
    Family("phi-4", PHI4, IM_END, (*CHATML_TOKENS, "<|im_sep|>"), eos="<|im_end|>", lacks=("tools",)),
    Family(
        "phi-3",
        trl("phi3"),
        ("<|end|>",),
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<s>",
        "<|endoftext|>",
        sentencepiece=True,
        lacks=("tools",),
    ),
    Family("gemma-2", trl("gemma"), ("<end_of_turn>",), TURN, "<bos>", "<eos>", {}, True, ("tools", "system")),
    Family("gemma-3", trl("gemma3"), ("<end_of_turn>",), TURN, "<bos>", "<eos>", {}, True, ("tools",)),
    Family(
        "mistral",
        MISTRAL,
        ("</s>",),
        (
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        "<s>",
        "</s>",
        sentencepiece=True,
        headers=("[/INST]", "[/TOOL_RESULTS]"),
    ),
    Family("zephyr", ZEPHYR, ("</s>",), (), "<s>", "</s>", sentencepiece=True, lacks=("tools",)),
]


def write_model(family: Family, folder: Path) -> Path:
    """A base model's directory as far as `prepare` reads it."""
    folder.mkdir(parents=True)
    tokenizer = _sentencepiece() if family.sentencepiece else _byte_level()
    special = dict.fromkeys([*filter(None, (family.bos, family.eos)), *family.tokens, "<|padding|>"])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.words])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": "<|padding|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": family.template}
    write(folder / "tokenizer_config.json", config | {key: name for key, name in names.items() if name})
    shape = json.loads((DEMO / "config.json").read_text())
    write(folder / "config.json", {key: value for key, value in shape.items() if not key.endswith("_token_id")})
    write(folder / "generation_config.json", {"eos_token_id": [tokenizer.token_to_id(end) for end in family.ends]})
    return folder


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _byte_level() -> Tokenizer:
    value = json.loads((DEMO / "tokenizer.json").read_text())
    # Its own control tokens would be everyone's.
    value["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(value))


def _sentencepiece() -> Tokenizer:
    return Tokenizer.from_str(_trained_sentencepiece())


@cache
def _trained_sentencepiece() -> str:
    """A vocabulary of SentencePiece's kind: word boundaries as ▁, bytes for what is unknown, <s> and </s> inside."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([TRL.joinpath("README.md").read_text()], trainer)
    value = json.loads(tokenizer.to_str())
    # Only <unk>, <s> and </s> are special in such files; bytes are ordinary pieces.
    value["added_tokens"] = [token for token in value["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(value)


def adds_bos(folder: Path) -> None:
    """Let the tokenizer in `folder` put BOS before plain text, as Llama's does."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos = json.loads((folder / "tokenizer_config.json").read_text())["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def user(words: str) -> dict:
    return {"role": "user", "content": words}


def assistant(words: str, **more) -> dict:
    return {"role": "assistant", "content": words, **more}


def system(words: str) -> dict:
    return {"role": "system", "content": words}


def call(city: str, name: str = "weather") -> list[dict]:
    return [{"type": "function", "id": f"call{len(city):05d}", "function": {"name": name, "arguments": {"city": city}}}]


def result(words: str, city: str = "Rome") -> dict:
    return {"role": "tool", "name": "weather", "tool_call_id": f"call{len(city):05d}", "content": words}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name."}},
                "required": ["city"],
            },
        },
    }
]

PLAIN = [
    [user("Hi"), assistant("Hello there!")],
    [user("What is 2 + 2?"), assistant("4")],
    [user("One?"), assistant("Two."), user("Three?"), assistant("Four.")],
    [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f"), user("g"), assistant("h")],
    [user("Say it twice"), assistant("yes yes"), user("yes"), assistant("yes")],
    [user("The answer is: Four."), assistant("Four.")],
    [user("Rate it"), assistant("4", weight=0), user("Again"), assistant("5")],
    [user("Rate it"), assistant("4", weight=1), user("Again"), assistant("5", weight=0)],
    [user("Rate it"), assistant("4", weight=0), user("Again"), assistant("5", weight=0)],
    [user("Nothing?"), assistant(""), user("Something?"), assistant("Yes")],
    [user("Something?"), assistant("Yes"), user("Nothing?"), assistant("")],
    [user("日本語で答えて"), assistant("はい、もちろんです。")],
    [user("👩‍👩‍👧‍👦 who?"), assistant("A family 👩‍👩‍👧‍👦!"), user("é or e\u0301?"), assistant("Both: é e\u0301")],
    [user("שלום"), assistant("مرحبا \u200f right to left")],
    [user("code"), assistant("```python\ndef f():\n    return 1\n```")],
    [user("  spaces before\n\n"), assistant("plain")],
    [user("html"), assistant("<b>bold</b> & <i>more</i> {{ braces }} {% for %}")],
    [user("thought"), assistant("<think>\nLet me see.\n</think>\n\nIt is so."), user("Sure?"), assistant("Sure.")],
    [user("first"), assistant("one"), user("think"), assistant("<think>\nHm.\n</think>\n\nThat.")],
    [user("long " * 200), assistant("answer " * 100)],
    [user("json"), assistant('{"a": [1, 2, {"b": null}]}')],
    [user("new\nlines\n\n\nin between"), assistant("a\n\nb\n\n\nc")],
    [user("assistant"), assistant("assistant"), user("user"), assistant("user")],
    [user("ends with a space "), assistant("and so does this "), user("or a line\n"), assistant("this\n")],
    [user("$x^2$?"), assistant("\\[ \\frac{1}{2}\\sqrt{x} \\]")],
    [user("table"), assistant("| a | b |\n|---|---|\n| 1 | 2 |")],
    [user("zero \u200b width \u200d"), assistant("\u2060joined\u200b words")],
    [user("x" * 400), assistant("y" * 400), user("tab\there"), assistant("\tindented\n\tcode")],
    [user("1"), assistant("2", weight=0), user("3"), assistant(""), user("5"), assistant("6")],
    [user("한국어"), assistant("네 👍🏽"), user("हिन्दी"), assistant("नमस्ते", weight=1)],
]
# Users spell out control tokens of the family here, all of them in place of each SPELLED.
SPELLED = "qqq"
WITH_CONTROL_TOKENS = [
    [user(f"What is {SPELLED} for?"), assistant("It ends a turn.")],
    [
        user(SPELLED),
        assistant("Yes?"),
        user(f"Is {SPELLED}\n{SPELLED} one?"),
        assistant("No."),
        user("So?"),
        assistant(""),
    ],
]
WITH_SYSTEM = [
    [system("Be brief."), user("Hi"), assistant("Hello.")],
    [system("Be brief."), user("One?"), assistant("Two."), user("Three?"), assistant("Four.")],
    [system("日本語のみ"), user("Hi"), assistant("はい", weight=1), user("再"), assistant("再び", weight=0)],
]
WITH_THOUGHTS = [
    [user("Why?"), assistant("Because.", reasoning_content="The reason is known.")],
    [user("1"), assistant("a", reasoning_content="first"), user("2"), assistant("b", reasoning_content="second")],
]
WITH_TOOLS = [
    [user("Rome?"), assistant("", tool_calls=call("Rome")), result("sunny"), assistant("It is sunny in Rome.")],
    [
        user("Rome?"),
        assistant("", tool_calls=call("Rome")),
        result("sunny"),
        assistant("Sunny."),
        user("So?"),
        assistant("Go."),
    ],
    [
        user("Weather"),
        assistant("", tool_calls=call("Oslo")),
        result('{"t": -3}', "Oslo"),
        assistant("-3 °C", weight=0),
    ],
]


def conversations(family: Family) -> list[tuple[list[dict], list[dict] | None]]:
    """At least thirty conversations that the family's template takes, with their tools."""
    plain = PLAIN + (WITH_SYSTEM if "system" not in family.lacks else [])
    thoughts = WITH_THOUGHTS
    tools = [] if "tools" in family.lacks else WITH_TOOLS
    return [*((messages, None) for messages in plain + thoughts), *((messages, TOOLS) for messages in tools)]


def control_tokens(family: Family) -> list[str]:
    """Every token that steers a model of this family, as it is spelled."""
    return list(dict.fromkeys([*filter(None, (family.bos, family.eos)), *family.tokens, *family.ends]))
