"""Decoder layers as Llama has them, and what other dense models change about them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from appliance.planning.model_shape import Layer, Linear

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Heads:
    queries: int
    key_values: int
    size: int


def heads_of(text: Config) -> Heads:
    heads = text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // heads
    return Heads(heads * size, (text.get("num_key_value_heads") or heads) * size, size)


def attention_linears(
    hidden: int, heads: Heads, *, bias: bool = False, output_bias: bool = False, gated: bool = False
) -> tuple[Linear, ...]:
    return (
        Linear("q_proj", hidden, heads.queries * (2 if gated else 1), bias),
        Linear("k_proj", hidden, heads.key_values, bias),
        Linear("v_proj", hidden, heads.key_values, bias),
        Linear("o_proj", heads.queries, hidden, output_bias),
    )


MLP: Final = ("gate_proj", "up_proj", "down_proj")


def mlp_linears(hidden: int, inner: int, *, bias: bool = False) -> tuple[Linear, ...]:
    gate, up, down = MLP
    return Linear(gate, hidden, inner, bias), Linear(up, hidden, inner, bias), Linear(down, inner, hidden, bias)


def window_of(text: Config, index: int, *, pattern: int = 0, default: int | None = None) -> int | None:
    """How far layer `index` looks back. `pattern`: every so many layers one looks at everything."""
    size: int | None = text.get("sliding_window", default)
    types = text.get("layer_types")
    if types:
        return size if types[index] == "sliding_attention" else None
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or pattern
    return size if pattern and (index + 1) % pattern else None


def llama(text: Config, index: int) -> Layer:
    """Llama and all that is built like it: two norms, gated MLP, biases where `config.json` says so."""
    bias = bool(text.get("attention_bias", False))
    return plain(text, index, bias=bias, output_bias=bias)


def mistral(text: Config, index: int) -> Layer:
    return replace(plain(text, index), window=text.get("sliding_window"))


def qwen2(text: Config, index: int) -> Layer:
    return plain(text, index, bias=True)


def qwen3(text: Config, index: int) -> Layer:
    """Queries and keys are normalised, head by head."""
    bias = bool(text.get("attention_bias", False))
    return plain(text, index, bias=bias, output_bias=bias, norms=2 * heads_of(text).size)


def plain(text: Config, index: int, *, bias: bool = False, output_bias: bool = False, norms: int = 0) -> Layer:
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], heads_of(text)
    attention = attention_linears(hidden, heads, bias=bias, output_bias=output_bias)
    mlp = mlp_linears(hidden, inner, bias=bool(text.get("mlp_bias", False)))
    return Layer((*attention, *mlp), heads.queries, heads.key_values, inner, 2 * hidden + norms)


def phi3(text: Config, index: int) -> Layer:
    """Queries, keys and values are one layer, and so are gate and up."""
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], heads_of(text)
    linears = (
        Linear("qkv_proj", hidden, heads.queries + 2 * heads.key_values),
        Linear("o_proj", heads.queries, hidden),
        Linear("gate_up_proj", hidden, 2 * inner),
        Linear("down_proj", inner, hidden),
    )
    return Layer(linears, heads.queries, heads.key_values, inner, 2 * hidden, window=text.get("sliding_window"))


def gemma2(text: Config, index: int) -> Layer:
    """Four norms a layer; every other layer looks back only so far."""
    layer = plain(text, index, norms=2 * text["hidden_size"])
    return replace(layer, window=window_of(text, index, pattern=2, default=4096))


def gemma3(text: Config, index: int) -> Layer:
    layer = plain(text, index, norms=2 * text["hidden_size"] + 2 * heads_of(text).size)
    return replace(layer, window=window_of(text, index, pattern=6, default=4096))
