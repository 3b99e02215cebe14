"""What a `config.json` says about the layers of a base model, architecture by architecture. Pure.

Every architecture here is compared, tensor by tensor, with the one that Transformers builds (test_model_shape.py).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from appliance.errors import InputError, Problem, Reason
from appliance.planning.model_shape import Layer, Linear, ModelShape, Tier
from appliance.planning.towers import tower_parameters

Config = Mapping[str, Any]

EXPERTS_FUSED: Final = (
    "its experts are stored as one tensor each, which bitsandbytes does not quantise; in 4 bits they would stay in 16 "
    "without saying so"
)
# A gated delta rule is worked out in chunks of this many tokens.
DELTA_CHUNK: Final = 64


@dataclass(frozen=True)
class _Architecture:
    layer: Callable[[Config, int], Layer]
    tied: bool = False
    embeddings: Callable[[Config], int] = lambda text: 0


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
    return replace(shape, tier=Tier.IN_16_BIT, tier_reason=EXPERTS_FUSED) if shape.is_mixture else shape


def _with_skipped(layer: Layer, index: int, skipped: tuple[str, ...]) -> Layer:
    """The layer as a base model that is stored in 4 bits has it: its list names what stayed in 16."""
    here = [name.partition(f"layers.{index}.")[2] for name in skipped if f"layers.{index}." in name]
    if not here:
        return layer
    linears = tuple(replace(linear, quantised=not _is_named(linear, here)) for linear in layer.linears)
    return replace(layer, linears=linears)


def _is_named(linear: Linear, names: list[str]) -> bool:
    """Whether one of the names (`mlp`, `self_attn`, `mlp.down_proj`) is this linear layer or holds it."""
    block = "mlp" if linear.suffix in (*_MLP, "gate_up_proj") else "attn"
    return any(name.rpartition(".")[2] == linear.suffix or name.endswith(block) for name in names)


# ---- Attention ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Heads:
    queries: int
    key_values: int
    size: int


def _heads(text: Config) -> _Heads:
    heads = text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // heads
    return _Heads(heads * size, (text.get("num_key_value_heads") or heads) * size, size)


def _attention(
    hidden: int, heads: _Heads, *, bias: bool = False, output_bias: bool = False, gated: bool = False
) -> tuple[Linear, ...]:
    return (
        Linear("q_proj", hidden, heads.queries * (2 if gated else 1), bias),
        Linear("k_proj", hidden, heads.key_values, bias),
        Linear("v_proj", hidden, heads.key_values, bias),
        Linear("o_proj", heads.queries, hidden, output_bias),
    )


_MLP: Final = ("gate_proj", "up_proj", "down_proj")


def _mlp(hidden: int, inner: int, *, bias: bool = False) -> tuple[Linear, ...]:
    gate, up, down = _MLP
    return Linear(gate, hidden, inner, bias), Linear(up, hidden, inner, bias), Linear(down, inner, hidden, bias)


def _window(text: Config, index: int, *, pattern: int = 0, default: int | None = None) -> int | None:
    """How far layer `index` looks back. `pattern`: every so many layers one looks at everything."""
    size: int | None = text.get("sliding_window", default)
    types = text.get("layer_types")
    if types:
        return size if types[index] == "sliding_attention" else None
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or pattern
    return size if pattern and (index + 1) % pattern else None


# ---- Dense decoders ----------------------------------------------------------------------------------------------


def _llama(text: Config, index: int) -> Layer:
    """Llama and all that is built like it: two norms, gated MLP, biases where `config.json` says so."""
    bias = bool(text.get("attention_bias", False))
    return _plain(text, index, bias=bias, output_bias=bias)


def _mistral(text: Config, index: int) -> Layer:
    return replace(_plain(text, index), window=text.get("sliding_window"))


def _qwen2(text: Config, index: int) -> Layer:
    return _plain(text, index, bias=True)


def _qwen3(text: Config, index: int) -> Layer:
    """Queries and keys are normalised, head by head."""
    bias = bool(text.get("attention_bias", False))
    return _plain(text, index, bias=bias, output_bias=bias, norms=2 * _heads(text).size)


def _plain(text: Config, index: int, *, bias: bool = False, output_bias: bool = False, norms: int = 0) -> Layer:
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], _heads(text)
    attention = _attention(hidden, heads, bias=bias, output_bias=output_bias)
    mlp = _mlp(hidden, inner, bias=bool(text.get("mlp_bias", False)))
    return Layer((*attention, *mlp), heads.queries, heads.key_values, inner, 2 * hidden + norms)


def _phi3(text: Config, index: int) -> Layer:
    """Queries, keys and values are one layer, and so are gate and up."""
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], _heads(text)
    linears = (
        Linear("qkv_proj", hidden, heads.queries + 2 * heads.key_values),
        Linear("o_proj", heads.queries, hidden),
        Linear("gate_up_proj", hidden, 2 * inner),
        Linear("down_proj", inner, hidden),
    )
    return Layer(linears, heads.queries, heads.key_values, inner, 2 * hidden, window=text.get("sliding_window"))


def _gemma2(text: Config, index: int) -> Layer:
    """Four norms a layer; every other layer looks back only so far."""
    layer = _plain(text, index, norms=2 * text["hidden_size"])
    return replace(layer, window=_window(text, index, pattern=2, default=4096))


def _gemma3(text: Config, index: int) -> Layer:
    layer = _plain(text, index, norms=2 * text["hidden_size"] + 2 * _heads(text).size)
    return replace(layer, window=_window(text, index, pattern=6, default=4096))


# ---- Gemma 4 -----------------------------------------------------------------------------------------------------


def _gemma4(text: Config, index: int) -> Layer:
    """Layers that look at everything have wider heads and may share keys with values; the last ones may borrow both.

    The small ones add an embedding to every layer, the mixture has experts beside its MLP.
    """
    hidden, full = text["hidden_size"], _gemma4_is_full(text, index)
    shared = text.get("num_kv_shared_layers") or 0
    borrows = shared > 0 and index >= text["num_hidden_layers"] - shared
    heads = _gemma4_heads(text, index, full=full)
    linears = _gemma4_attention(text, heads, full=full, borrows=borrows)
    inner = text["intermediate_size"] * (2 if borrows and text.get("use_double_wide_mlp") else 1)
    norms = 4 * hidden + (1 if borrows else 2) * heads.size
    window = None if full else text.get("sliding_window", 512)
    layer = Layer((*linears, *_mlp(hidden, inner)), heads.queries, heads.key_values, inner, norms, window=window)
    if width := _gemma4_per_layer_width(text):
        gates = (
            Linear("per_layer_input_gate", hidden, width, adapted=False),
            Linear("per_layer_projection", width, hidden, adapted=False),
        )
        layer = replace(layer, linears=(*layer.linears, *gates), other_parameters=layer.other_parameters + hidden)
    return _gemma4_with_experts(text, layer) if text.get("enable_moe_block") else layer


def _gemma4_is_full(text: Config, index: int) -> bool:
    types = text.get("layer_types")
    # The last layer always looks at everything.
    return index == text["num_hidden_layers"] - 1 or (
        types[index] == "full_attention" if types else (index + 1) % 6 == 0
    )


def _gemma4_heads(text: Config, index: int, *, full: bool) -> _Heads:
    # As Transformers 5 saves it; repositories have figures of their own for layers that look at everything.
    overrides = (text.get("per_layer_config") or {}).get(str(index))
    if overrides is not None or not full:
        return _heads({**text, **(overrides or {})})
    size = text.get("global_head_dim", 512)
    shares = text.get("attention_k_eq_v", False)
    key_values = (text.get("num_global_key_value_heads") if shares else None) or text["num_key_value_heads"]
    return _Heads(text["num_attention_heads"] * size, key_values * size, size)


def _gemma4_attention(text: Config, heads: _Heads, *, full: bool, borrows: bool) -> tuple[Linear, ...]:
    missing = {"k_proj", "v_proj"} if borrows else {"v_proj"} if full and text.get("attention_k_eq_v") else set()
    return tuple(linear for linear in _attention(text["hidden_size"], heads) if linear.suffix not in missing)


def _gemma4_with_experts(text: Config, layer: Layer) -> Layer:
    hidden, count, inner = text["hidden_size"], _experts(text), text["moe_intermediate_size"]
    expert, used = 3 * hidden * inner, text["top_k_experts"]
    return replace(
        layer,
        linears=(*layer.linears, Linear("proj", hidden, count, adapted=False)),
        mlp_size=layer.mlp_size + used * inner,
        # Three more norms, and the router's two scales.
        other_parameters=layer.other_parameters + 3 * hidden + hidden + count,
        expert_parameters=count * expert,
        active_expert_parameters=used * expert,
    )


def _gemma4_per_layer_width(text: Config) -> int:
    if text["model_type"].startswith("gemma4_unified"):
        return 0
    width = text.get("hidden_size_per_layer_input", 256)
    return int(width or 0)


def _gemma4_embeddings(text: Config) -> int:
    """The embedding that every layer adds its part of, and its way in from the first one."""
    width = _gemma4_per_layer_width(text)
    if not width:
        return 0
    all_layers = text["num_hidden_layers"] * width
    vocabulary = text.get("vocab_size_per_layer_input", 262_144)
    return int(vocabulary * all_layers + text["hidden_size"] * all_layers + width)


# ---- Mixtures of experts -----------------------------------------------------------------------------------------


def _gpt_oss(text: Config, index: int) -> Layer:
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], _heads(text)
    count, used = _experts(text), text["num_experts_per_tok"]
    expert = 3 * hidden * inner + 2 * inner + hidden
    return Layer(
        _attention(hidden, heads, bias=True, output_bias=True),
        heads.queries,
        heads.key_values,
        used * inner,
        # Norms, one sink for every head, the router.
        2 * hidden + text["num_attention_heads"] + count * (hidden + 1),
        expert_parameters=count * expert,
        active_expert_parameters=used * expert,
        window=_window(text, index, pattern=2, default=128),
    )


def _mixtral(text: Config, index: int) -> Layer:
    count, used = _experts(text), text["num_experts_per_tok"]
    return _with_experts(_plain(text, index), text, count=count, used=used, inner=text["intermediate_size"])


def _qwen2_moe(text: Config, index: int) -> Layer:
    dense = _qwen2(text, index)
    return _with_qwen_experts(dense, text, shared=True) if _is_sparse(text, index) else dense


def _qwen3_moe(text: Config, index: int) -> Layer:
    dense = _qwen3(text, index)
    return _with_qwen_experts(dense, text) if _is_sparse(text, index) else dense


def _is_sparse(text: Config, index: int) -> bool:
    only_dense, step = text.get("mlp_only_layers") or (), text.get("decoder_sparse_step", 1)
    return index not in only_dense and _experts(text) > 0 and (index + 1) % step == 0


def _experts(text: Config) -> int:
    """By the name that repositories have, or the one that Transformers 5 writes."""
    count = text.get("num_local_experts")
    return int(text["num_experts"] if count is None else count)


def _with_qwen_experts(layer: Layer, text: Config, *, shared: bool = False) -> Layer:
    count, used, inner = _experts(text), text["num_experts_per_tok"], text["moe_intermediate_size"]
    return _with_experts(
        layer,
        text,
        count=count,
        used=used,
        inner=inner,
        shared=text["shared_expert_intermediate_size"] if shared else 0,
    )


def _with_experts(layer: Layer, text: Config, *, count: int, used: int, inner: int, shared: int = 0) -> Layer:
    """The same layer with experts and a router in place of its MLP; perhaps one more that every token visits."""
    hidden = text["hidden_size"]
    attention = tuple(linear for linear in layer.linears if linear.suffix not in _MLP)
    always = (*_mlp(hidden, shared), Linear("shared_expert_gate", hidden, 1, adapted=False)) if shared else ()
    expert = 3 * hidden * inner
    return replace(
        layer,
        linears=(*attention, *always),
        mlp_size=used * inner + shared,
        other_parameters=layer.other_parameters + count * hidden,
        expert_parameters=count * expert,
        active_expert_parameters=used * expert,
    )


# ---- Qwen 3.5: three layers with a gated delta rule, then one with attention --------------------------------------


def _qwen3_5(text: Config, index: int) -> Layer:
    mlp = _mlp(text["hidden_size"], text["intermediate_size"])
    return _qwen3_5_layer(text, index, mlp, text["intermediate_size"])


def _qwen3_5_moe(text: Config, index: int) -> Layer:
    return _with_qwen_experts(_qwen3_5_layer(text, index, (), 0), text, shared=True)


def _qwen3_5_layer(text: Config, index: int, mlp: tuple[Linear, ...], inner: int) -> Layer:
    hidden = text["hidden_size"]
    if _qwen3_5_is_full(text, index):
        heads, bias = _heads(text), bool(text.get("attention_bias", False))
        attention = _attention(hidden, heads, bias=bias, output_bias=bias, gated=True)
        return Layer((*attention, *mlp), 2 * heads.queries, heads.key_values, inner, 2 * hidden + 2 * heads.size)
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    heads_v = text["linear_num_value_heads"]
    values = heads_v * text["linear_value_head_dim"]
    mixed = 2 * keys + values
    linears = (
        Linear("in_proj_qkv", hidden, mixed),
        Linear("in_proj_z", hidden, values),
        Linear("in_proj_b", hidden, heads_v),
        Linear("in_proj_a", hidden, heads_v),
        Linear("out_proj", values, hidden),
    )
    # A convolution over time, one decay and one bias for every head, and norms.
    others = mixed * text.get("linear_conv_kernel_dim", 4) + 2 * heads_v + text["linear_value_head_dim"] + 2 * hidden
    return Layer((*linears, *mlp), mixed, values, inner, others, window=DELTA_CHUNK)


def _qwen3_5_is_full(text: Config, index: int) -> bool:
    types = text.get("layer_types")
    if types:
        return bool(types[index] == "full_attention")
    return (index + 1) % int(text.get("full_attention_interval", 4)) == 0


ARCHITECTURES: Final[Mapping[str, _Architecture]] = {
    "llama": _Architecture(_llama),
    "granite": _Architecture(_llama),
    "mistral": _Architecture(_mistral),
    "ministral3": _Architecture(_mistral),
    "qwen2": _Architecture(_qwen2),
    "qwen3": _Architecture(_qwen3),
    "qwen3_5_text": _Architecture(_qwen3_5),
    "phi3": _Architecture(_phi3),
    "gemma2": _Architecture(_gemma2, tied=True),
    "gemma3_text": _Architecture(_gemma3, tied=True),
    "gemma4_text": _Architecture(_gemma4, tied=True, embeddings=_gemma4_embeddings),
    "gemma4_unified_text": _Architecture(_gemma4, tied=True),
    "gpt_oss": _Architecture(_gpt_oss),
    "mixtral": _Architecture(_mixtral),
    "qwen2_moe": _Architecture(_qwen2_moe),
    "qwen3_moe": _Architecture(_qwen3_moe),
    "qwen3_5_moe_text": _Architecture(_qwen3_5_moe),
}
_EXPERT_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def _refuse(model_type: str, text: Config) -> Problem:
    known = ", ".join(ARCHITECTURES)
    experts = next((text[name] for name in _EXPERT_COUNTS if text.get(name)), None)
    what = f", a mixture of {experts} experts" if experts else ""
    return Problem(
        code="unknown_architecture",
        message=f"the base model is of the architecture {model_type}{what}, whose layers this version cannot count: "
        f"neither its memory nor what would be trained could be said beforehand; it knows {known}",
        reason=Reason.WOULD_NOT_FIT,
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
