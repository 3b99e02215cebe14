"""`adapter/README.md`, the model card: what the adapter is, what it was trained on and how to load it. Pure.

Byte-stable: it holds no time and no path, so that pushing it again changes nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from appliance.job import Verdict
from appliance.names import slug
from appliance.recipe import Recipe
from appliance.texts import markdown as md
from appliance.texts.usage import (
    DEMO,
    base_model_commit,
    base_model_id,
    load_with_peft,
    load_with_unsloth,
    serve_with_vllm,
)
from appliance.texts.wording import VERDICTS, loss, percent, plural, sentence

# The licences that the Hub knows by name; its card check refuses any other word.
# fmt: off
HUB_LICENSES: Final = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research",
    "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail",
    "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
})
# fmt: on
DEMO_LICENSE: Final = "apache-2.0"


@dataclass(frozen=True)
class Card:
    """What the card tells. `check`, `fetch` and `train` are those stages' results, `labels` and `evaluation` the
    objects of `labels.json` and `eval.json`.
    """

    name: str
    recipe: Recipe
    recipe_yaml: str
    check: Mapping[str, Any]
    fetch: Mapping[str, Any]
    labels: Mapping[str, Any]
    train: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def base_model(self) -> str:
        """The canonical name of the base model."""
        return base_model_id(self.fetch)

    @property
    def commit(self) -> str | None:
        """The commit of the base model, where that very repository was loaded."""
        return base_model_commit(self.fetch)

    @property
    def in_4bit(self) -> bool:
        return self.train["quantization"] is not None


def model_card(card: Card) -> str:
    """The text of `adapter/README.md`."""
    parts = [
        _front_matter(card),
        f"# {md.plain(card.name)}",
        _introduction(card),
        "## Verdict",
        *_verdict(card),
        "## What it was trained on",
        _training_data(card),
        "## How it was trained",
        _training(card),
        md.block(card.recipe_yaml, "yaml"),
        "## How to load it",
        *_loading(card),
        "## Versions",
        "\n".join(f"- {md.plain(name)} {md.code(version)}" for name, version in sorted(card.versions.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Card) -> str:
    """The card's metadata. Names are quoted as JSON, which every YAML reader reads as text."""
    tags = ("qlora" if card.in_4bit else "lora", "unsloth", "trl", card.recipe.method, *card.recipe.hub.tags)
    lines = [
        f"base_model: {json.dumps(card.base_model)}",
        "base_model_relation: adapter",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in dict.fromkeys(tags)),
        *_license(card),
    ]
    return "\n".join(["---", *lines, "---"])


def _license(card: Card) -> Iterator[str]:
    own = DEMO_LICENSE if card.base_model == DEMO else card.fetch.get("license")
    if name := (card.recipe.license or own):
        known = name.lower() in HUB_LICENSES
        yield f"license: {name.lower() if known else 'other'}"
        if not known:
            yield f"license_name: {json.dumps(name.lower())}"


def _introduction(card: Card) -> str:
    method = "QLoRA, on the base in 4-bit NF4" if card.in_4bit else "LoRA, on the base in 16 bits"
    loaded, commit = card.fetch["base_model_loaded"], card.fetch["base_model_commit"]
    at = f" at commit {md.code(commit)}" if commit else ""
    base = md.code(card.base_model) + (at if loaded == card.base_model else "")
    text = f"A LoRA adapter for {base}, trained by supervised fine-tuning with {method}."
    if loaded != card.base_model:
        text += f" Its weights in 4 bits came from {md.code(loaded)}{at}."
    return text


def _verdict(card: Card) -> Iterator[str]:
    evaluation = card.evaluation
    if evaluation is None:
        yield "It was not compared with the base."
        return
    verdict = Verdict(evaluation["verdict"])
    yield f"**{verdict.replace('_', ' ').capitalize()}**: {VERDICTS[verdict]}."
    yield "\n".join(f"- {md.prose(sentence(said))}" for said in (*evaluation["reasons"], *evaluation["warnings"]))
    if rows := list(_comparison(evaluation)):
        yield "\n".join(["| | base | tuned |", "|---|---:|---:|", *rows])
        yield "Losses are in nats per trained token; less is better." + (
            " They were measured on the base in 4-bit NF4. Served in another precision, it will differ."
            if card.in_4bit
            else ""
        )


def _comparison(evaluation: Mapping[str, Any]) -> Iterator[str]:
    rows, tokens = plural(evaluation["held_out_rows"], "row"), plural(evaluation["held_out_tokens"], "token")
    kinds = (
        (f"loss on held-out rows ({rows}, {tokens})", "base_loss", "tuned_loss", loss),
        ("loss on a general English text", "general_base_loss", "general_tuned_loss", loss),
        ("sampled answers that come to an end", "stop_rate_base", "stop_rate_tuned", percent),
    )
    for name, base, tuned, say in kinds:
        if evaluation[base] is not None:
            yield f"| {name} | {say(evaluation[base])} | {say(evaluation[tuned])} |"


def _training_data(card: Card) -> str:
    """Counts and a hash. Never a row, and not the file's name either."""
    labels = card.labels
    return "\n".join(
        [
            f"- {plural(labels['rows_in'], 'row')}, of which {labels['rows_kept']:,} were kept and"
            f" {labels['rows_held_out']:,} held out, never trained on",
            f"- {plural(labels['tokens_total'], 'token')}, of which {labels['tokens_trained']:,} are trained",
            f"- SHA-256 of the dataset: `{card.check['dataset_sha256']}`",
        ]
    )


def _training(card: Card) -> str:
    train = card.train
    epochs = "1 epoch" if train["epochs"] == 1 else f"{train['epochs']:.3g} epochs"
    best = f" The adapter is that of step {train['adapter_step']:,}." if train["adapter_step"] != train["steps"] else ""
    return (
        f"{plural(train['steps'], 'step')} ({epochs}) on"
        f" {plural(train['content_tokens'], 'token')}; {plural(train['trainable_parameters'], 'trainable parameter')}."
        f"{best} The recipe, with every default:"
    )


def _loading(card: Card) -> Iterator[str]:
    base, commit, lora = card.base_model, card.commit, card.recipe.lora
    yield "Below, `adapter` is the directory of this file, or the name of its repository."
    yield "With [PEFT](https://github.com/huggingface/peft):"
    yield md.block(load_with_peft(base, commit=commit, in_4bit=card.in_4bit), "python")
    if base == DEMO:
        yield f"The base model `{DEMO}` ships with the appliance that trained this adapter."
        return
    yield "With [Unsloth](https://github.com/unslothai/unsloth):"
    yield md.block(load_with_unsloth(in_4bit=card.in_4bit), "python")
    yield "With [vLLM](https://github.com/vllm-project/vllm):"
    yield md.block(serve_with_vllm(base, commit=commit, name=slug(card.name), rank=lora.r), "sh")
    if card.recipe.chat_template:
        yield "The adapter has a chat template of its own; `--chat-template` wants the file `chat_template.jinja`."
