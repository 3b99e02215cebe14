"""The recipe: what to train and how, as the person who dropped it wrote it.

Names follow Transformers, TRL and PEFT. `auto` stays `auto` here; the plan turns it into numbers. Every field's
description says which values work: it completes the sentence "learning_rate is -1; it must be ...".
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from appliance.errors import Problem, Reason
from appliance.job import Priority

# Two ways to say the same thing: naming one takes the other's default away, naming both is a mistake.
RIVALS: Final = (("num_train_epochs", "max_steps"), ("warmup_ratio", "warmup_steps"))


def _refuse_bool(value: object) -> object:
    # Pydantic would read true as 1. Numbers in quotes stay welcome: people quote 2e-4 for other tools' sake.
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def _fullmatch(pattern: str) -> AfterValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value) or ".." in value:
            raise ValueError("not of the expected form")
        return value

    return AfterValidator(check)


def _check_dataset(value: str) -> str:
    other_source = re.fullmatch(rf"job:[0-9]+|hub:{_WORD}/{_WORD}", value, re.ASCII)
    bare_name = not re.search(r"[/\\\x00-\x1f\x7f]|^[A-Za-z]\w*:|^~|^\.{0,2}$", value)
    if not (other_source or (bare_name and len(value) <= 255)):
        raise ValueError("not a bare file name, job:NNNN or hub:org/name")
    return value


_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
Auto = Literal["auto"]
Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_refuse_bool)]
BatchSize = Annotated[Integer, Field(ge=1)]
ModelName = Annotated[str, Field(max_length=200), _fullmatch(rf"{_WORD}(/{_WORD})?")]
Revision = Annotated[str, Field(max_length=200), _fullmatch(rf"{_WORD}(/{_WORD})*")]
DatasetName = Annotated[str, AfterValidator(_check_dataset)]
Sha256 = Annotated[str, _fullmatch(r"[0-9a-fA-F]{64}"), AfterValidator(str.lower)]
ModuleName = Annotated[str, Field(max_length=100), _fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*")]
# What the Hub takes as a name: no two dashes in a row, no mark at the end, not a folder of git's.
RepoName = Annotated[
    str, Field(max_length=80), _fullmatch(r"(?!.*--)(?!.*\.git$)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
]
Tag = Annotated[str, Field(max_length=60), _fullmatch(r"[\w.:+-]+( [\w.:+-]+)*")]
License = Annotated[str, Field(max_length=100), _fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*")]
Prompt = Annotated[str, Field(min_length=1, max_length=8000)]

# Those of chat_templates.KNOWN. Templates are programs: a recipe never brings its own.
ChatTemplate = Literal["chatml", "alpaca", "zephyr", "llama-3"]
Scheduler = Literal["linear", "cosine", "cosine_with_restarts", "constant", "constant_with_warmup", "inverse_sqrt"]
Optimizer = Literal["adamw_8bit", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "paged_adamw_32bit"]
LongExamples = Literal["reject_over_5_percent", "truncate", "drop", "reject"]


class ChatTemplateKwargs(TypedDict, total=False):
    """What a recipe may hand to the chat template."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    enable_thinking: Annotated[bool, Field(description="true or false")]
    thinking: Annotated[bool, Field(description="true or false")]
    reasoning_effort: Annotated[Literal["low", "medium", "high"], Field(description="low, medium or high")]


class LoRA(BaseModel, frozen=True, extra="forbid"):
    """The adapter's shape, in PEFT's words."""

    r: Annotated[Integer, Field(ge=1, le=1024)] = Field(
        16, description="a whole number from 1 to 1024; 8 to 64 is usual"
    )
    alpha: Annotated[Integer, Field(ge=1, le=8192)] = Field(
        16, description="a whole number from 1 to 8192; the same as r is usual"
    )
    dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="a number from 0 to below 1, such as 0.05")
    target_modules: Auto | Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] = Field(
        "auto", description="auto (every linear layer of attention and MLP) or a list such as [q_proj, v_proj]"
    )
    use_rslora: bool = Field(False, description="true or false")


class Hub(BaseModel, frozen=True, extra="forbid"):
    """What becomes of the adapter on the Hub. The organisation is the administrator's choice, never the recipe's."""

    push: bool | None = Field(None, description="true or false; left out, the settings decide")
    repo: RepoName | None = Field(
        None, description="a bare repository name such as support; the organisation comes from the settings"
    )
    public: bool = Field(False, description="true or false")
    tags: Annotated[tuple[Tag, ...], Field(max_length=20)] = Field(
        (), description="a list of up to 20 short words, such as [support, english]"
    )


class Recipe(BaseModel, frozen=True, extra="forbid"):
    """What to train and how."""

    base_model: ModelName = Field(
        description="a Hub id such as Qwen/Qwen3-8B, or demo, or the name of a directory in the models folder"
    )
    revision: Revision | None = Field(None, description="a commit or tag of the base model's repository, in quotes")
    method: Literal["sft", "dpo", "orpo", "kto"] = Field("sft", description="sft")

    dataset: DatasetName | None = Field(
        None, description="the bare name of a file dropped with the recipe, such as support.jsonl, or job:0007"
    )
    sha256: Sha256 | None = Field(None, description="the dataset's SHA-256: 64 hexadecimal digits, in quotes")
    eval_fraction: Annotated[Number, Field(ge=0, le=0.5)] = Field(
        0.05, description="a number from 0 (no held-out rows) to 0.5"
    )
    eval_max_rows: Annotated[Integer, Field(ge=0, le=100_000)] = Field(
        500, description="a whole number from 0 to 100000"
    )

    max_seq_length: Auto | Annotated[Integer, Field(ge=16, le=262_144)] = Field(
        "auto", description="auto or a whole number of tokens from 16 to 262144"
    )
    long_examples: LongExamples = Field(
        "reject_over_5_percent", description="reject_over_5_percent, truncate, drop or reject"
    )
    chat_template: ChatTemplate | None = Field(
        None, description="chatml, alpaca, zephyr or llama-3; left out, the base model's own template is used"
    )
    chat_template_kwargs: ChatTemplateKwargs = Field(
        default_factory=lambda: ChatTemplateKwargs(),
        description="indented lines below it such as enable_thinking: false",
    )
    train_on: Literal["responses", "everything"] = Field("responses", description="responses or everything")
    packing: Auto | bool = Field("auto", description="auto, true or false")
    load_in_4bit: bool = Field(True, description="true (NF4 QLoRA) or false (16-bit LoRA)")
    lora: LoRA = Field(LoRA(), description="indented lines below it such as r: 16")

    learning_rate: Annotated[Number, Field(ge=0, le=1)] = Field(2e-4, description="a number from 0 to 1, such as 2e-4")
    lr_scheduler_type: Scheduler = Field(
        "linear",
        description="linear, cosine, cosine_with_restarts, constant, constant_with_warmup or inverse_sqrt",
    )
    warmup_ratio: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        0.05, description="a number from 0 to 1, such as 0.05"
    )
    warmup_steps: Annotated[Integer, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="a whole number from 0 to 1000000"
    )
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = Field(0.001, description="a number from 0 to 1")
    max_grad_norm: Annotated[Number, Field(ge=0, le=1000)] = Field(
        1.0, description="a number from 0 (no clipping) to 1000"
    )
    optim: Optimizer = Field(
        "adamw_8bit",
        description="adamw_8bit, adamw_torch, adamw_torch_fused, paged_adamw_8bit or paged_adamw_32bit",
    )

    num_train_epochs: Auto | Annotated[Number, Field(gt=0, le=1000)] | None = Field(
        "auto", description="auto or a number above 0 and up to 1000, such as 3"
    )
    max_steps: Annotated[Integer, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="a whole number from 1 to 10000000"
    )
    effective_batch_size: Auto | Annotated[Integer, Field(ge=1, le=4096)] = Field(
        "auto", description="auto or a whole number from 1 to 4096"
    )
    per_device_train_batch_size: Auto | Annotated[Integer, Field(ge=1, le=1024)] = Field(
        "auto", description="auto or a whole number from 1 to 1024"
    )
    gradient_checkpointing: Auto | bool = Field("auto", description="auto, true or false")

    neftune_noise_alpha: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        None, description="a number above 0 and up to 100, such as 5"
    )
    early_stopping_patience: Annotated[Integer, Field(ge=1, le=1000)] | None = Field(
        None, description="a whole number of evaluations from 1 to 1000"
    )
    keep_best: Auto | bool = Field("auto", description="auto, true or false")
    seed: Annotated[Integer, Field(ge=0, le=2**32 - 1)] = Field(3407, description="a whole number from 0 to 4294967295")

    sample_prompts: Annotated[tuple[Prompt, ...], Field(max_length=8)] = Field(
        (), description="a list of up to 8 prompts, each a text of up to 8000 characters"
    )
    hub: Hub = Field(Hub(), description="indented lines below it such as repo: support")
    license: License | None = Field(
        None, description="a short name such as apache-2.0; left out, it is the base model's"
    )
    priority: Priority = Field(Priority.NORMAL, description="high, normal or low")

    @model_validator(mode="before")
    @classmethod
    def _settle_rivals(cls, values: object) -> object:
        return settle_rivals(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _refuse_rivals(self) -> Self:
        for one, other in RIVALS:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} exclude each other")
        return self


def settle_rivals(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the unnamed (or `auto`) one of two rivals out of the way of the one that was named."""
    settled = dict(values)
    for pair in RIVALS:
        for named, rival in (pair, pair[::-1]):
            if values.get(named) not in (None, "auto") and values.get(rival) in (None, "auto"):
                settled[rival] = None
    return settled


def resolve(own: Mapping[str, Any], library: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `own` over those of the library recipe, key by key, also below `lora` and `hub`.

    A key of `own` replaces the library's rival too: `max_steps` in a recipe wins over the folder's `num_train_epochs`.
    """
    replaced = {rival for pair in RIVALS for named, rival in (pair, pair[::-1]) if own.get(named) is not None}
    merged = {key: value for key, value in library.items() if key not in replaced}
    for key, value in own.items():
        below = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = {**below, **value} if nested else value  # type: ignore[dict-item]
    return merged


def uneven_batch(effective: int, micro_batch: int) -> Problem | None:
    """What is wrong with an effective batch that cannot be cut into whole micro-batches; None when it can."""
    if effective % micro_batch == 0:
        return None
    nearest = micro_batch * max(1, round(effective / micro_batch))
    return Problem(
        code="batch_not_divisible",
        message=f"effective_batch_size is {effective}, which is not a multiple of per_device_train_batch_size "
        f"{micro_batch}; make it {nearest}, for example",
        reason=Reason.RECIPE_SCHEMA,
        key="effective_batch_size",
        found=str(effective),
        expected=str(nearest),
    )


def _expectations() -> Iterator[tuple[str, str]]:
    for key, field in Recipe.model_fields.items():
        yield key, field.description or ""
    for group, model in (("lora", LoRA), ("hub", Hub)):
        for key, field in model.model_fields.items():
            yield f"{group}.{key}", field.description or ""
    for key, hint in get_type_hints(ChatTemplateKwargs, include_extras=True).items():
        yield f"chat_template_kwargs.{key}", hint.__metadata__[0].description


# Every key as it is written in prose (`lora.r`), with the values that work.
EXPECTED: Final[Mapping[str, str]] = dict(_expectations())
