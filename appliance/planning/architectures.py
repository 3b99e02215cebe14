"""What a `config.json` says about the layers of a base model, architecture by architecture. Pure.

A new one is a line in `ARCHITECTURES` and a function beside those of its kind: dense ones in decoders.py, mixtures in
experts.py. Every architecture is compared, tensor by tensor, with the one that Transformers builds
(test_model_shape.py).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from appliance.errors import InputError, Problem, Reason
from appliance.planning.decoders import MLP, Config, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3
from appliance.planning.experts import gpt_oss, mixtral, qwen2_moe, qwen3_moe
from appliance.planning.gemma4 import gemma4, gemma4_embeddings
from appliance.planning.model_shape import Layer, Linear, ModelShape, Tier
from appliance.planning.qwen35 import qwen3_5, qwen3_5_moe
from appliance.planning.towers import tower_parameters

EXPERTS_FUSED: Final = (
    "its experts are stored as one tensor each, which bitsandbytes does not quantise; in 4 bits they would stay in 16 "
    "without saying so"
)
# Towers number layers too: those of the language model, alone or wrapped, lie nowhere else.
_IN_LAYER: Final = re.compile(r"(?:model\.|language_model\.)*layers\.(\d+)\.(.+)")
# What wraps a language model that Transformers also loads by itself, as it must be to train and to verify an adapter.
WRAPPERS: Final = ("gemma3", "gemma4", "gemma4_unified", "qwen3_5", "qwen3_5_moe")
_EXPERT_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class _Architecture:
    layer: Callable[[Config, int], Layer]
    tied: bool = False
    embeddings: Callable[[Config], int] = lambda text: 0


ARCHITECTURES: Final[Mapping[str, _Architecture]] = {
    "llama": _Architecture(llama),
    "granite": _Architecture(llama),
    "mistral": _Architecture(mistral),
    "ministral3": _Architecture(mistral),
    "qwen2": _Architecture(qwen2),
    "qwen3": _Architecture(qwen3),
    "qwen3_5_text": _Architecture(qwen3_5),
    "phi3": _Architecture(phi3),
    "gemma2": _Architecture(gemma2, tied=True),
    "gemma3_text": _Architecture(gemma3, tied=True),
    "gemma4_text": _Architecture(gemma4, tied=True, embeddings=gemma4_embeddings),
    "gemma4_unified_text": _Architecture(gemma4, tied=True),
    "gpt_oss": _Architecture(gpt_oss),
    "mixtral": _Architecture(mixtral),
    "qwen2_moe": _Architecture(qwen2_moe),
    "qwen3_moe": _Architecture(qwen3_moe),
    "qwen3_5_moe_text": _Architecture(qwen3_5_moe),
}


def read_shape(config: Config) -> ModelShape:
    """The shape that a `config.json` describes; that of the language model where towers are wrapped around it.

    Raises InputError for an architecture whose parameters this version cannot count exactly.
    """
    text: Config = config.get("text_config", config)
    model_type = _model_type(config, text)
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        raise InputError([_refuse(model_type, text)])
    try:
        return _shape(model_type, architecture, text, config)
    except KeyError as error:
        raise InputError([_missing_figure(model_type, error.args[0])]) from None


def _model_type(config: Config, text: Config) -> str:
    return str(text.get("model_type") or config.get("model_type"))


def _shape(model_type: str, architecture: _Architecture, text: Config, config: Config) -> ModelShape:
    skipped = tuple((config.get("quantization_config") or {}).get("llm_int8_skip_modules") or ())
    kinds = Counter(
        _with_skipped(architecture.layer(text, index), index, skipped) for index in range(text["num_hidden_layers"])
    )
    shape = ModelShape(
        model_type=model_type,
        layers=tuple(replace(layer, count=count) for layer, count in kinds.items()),
        hidden_size=text["hidden_size"],
        vocabulary=text["vocab_size"],
        positions=text.get("max_position_embeddings") or 2048,
        tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", architecture.tied))),
        other_parameters=text["hidden_size"] + architecture.embeddings(text),
        tower_parameters=tower_parameters(config),
    )
    if "text_config" in config and config["model_type"] not in WRAPPERS:
        return replace(shape, tier=Tier.REFUSED, tier_reason=_not_loaded_alone(model_type, config["model_type"]))
    return replace(shape, tier=Tier.IN_16_BIT, tier_reason=EXPERTS_FUSED) if shape.is_mixture else shape


def _not_loaded_alone(model_type: str, wrapper: str) -> str:
    return (
        f"its language model ({model_type}) lies inside of {wrapper}, and of such models only those inside of "
        f"{', '.join(WRAPPERS)} can be loaded by themselves"
    )


def _with_skipped(layer: Layer, index: int, skipped: tuple[str, ...]) -> Layer:
    """The layer as a base model that is stored in 4 bits has it: its list names what stayed in 16."""
    inside = filter(None, map(_IN_LAYER.fullmatch, skipped))
    here = [match[2] for match in inside if int(match[1]) == index]
    if not here:
        return layer
    linears = tuple(replace(linear, quantised=not _is_named(linear, here)) for linear in layer.linears)
    return replace(layer, linears=linears)


def _is_named(linear: Linear, names: list[str]) -> bool:
    """Whether one of the names (`mlp`, `self_attn`, `mlp.down_proj`) is this linear layer or holds it."""
    block = "mlp" if linear.suffix in (*MLP, "gate_up_proj") else "attn"
    return any(name.rpartition(".")[2] == linear.suffix or name.endswith(block) for name in names)


def _refuse(model_type: str, text: Config) -> Problem:
    known = ", ".join(ARCHITECTURES)
    experts = next((text[name] for name in _EXPERT_COUNTS if text.get(name)), None)
    what = f", a mixture of {experts} experts" if experts else ""
    return Problem(
        code="unknown_architecture",
        message=f"the base model is of the architecture {model_type}{what}, whose layers this version cannot count: "
        f"neither its memory nor what would be trained could be said beforehand; it knows {known}",
        reason=Reason.MODEL_NOT_ALLOWED,
        key="base_model",
        found=model_type,
        expected=known,
    )


def _missing_figure(model_type: str, figure: str) -> Problem:
    return Problem(
        code="incomplete_config",
        message=f"the base model's config.json says {model_type} but does not say {figure}",
        reason=Reason.OTHER,
        key="base_model",
        expected=figure,
    )
