"""The layers of Gemma 4. Pure."""

from dataclasses import replace

from appliance.planning.decoders import Config, Heads, attention_linears, heads_of, mlp_linears
from appliance.planning.experts import expert_count
from appliance.planning.model_shape import Layer, Linear


def gemma4(text: Config, index: int) -> Layer:
    """Layers that look at everything have wider heads and may share keys with values; the last ones may borrow both.

    The small ones add an embedding to every layer, the mixture has experts beside its MLP.
    """
    hidden, full = text["hidden_size"], _is_full(text, index)
    shared = text.get("num_kv_shared_layers") or 0
    borrows = shared > 0 and index >= text["num_hidden_layers"] - shared
    heads = _heads(text, index, full=full)
    linears = _attention(text, heads, full=full, borrows=borrows)
    inner = text["intermediate_size"] * (2 if borrows and text.get("use_double_wide_mlp") else 1)
    norms = 4 * hidden + (1 if borrows else 2) * heads.size
    window = None if full else text.get("sliding_window", 512)
    layer = Layer((*linears, *mlp_linears(hidden, inner)), heads.queries, heads.key_values, inner, norms, window=window)
    if width := _per_layer_width(text):
        gates = (
            Linear("per_layer_input_gate", hidden, width, adapted=False),
            Linear("per_layer_projection", width, hidden, adapted=False),
        )
        layer = replace(layer, linears=(*layer.linears, *gates), other_parameters=layer.other_parameters + hidden)
    return _with_experts(text, layer) if text.get("enable_moe_block") else layer


def _is_full(text: Config, index: int) -> bool:
    types = text.get("layer_types")
    # The last layer always looks at everything.
    return index == text["num_hidden_layers"] - 1 or (
        types[index] == "full_attention" if types else (index + 1) % 6 == 0
    )


def _heads(text: Config, index: int, *, full: bool) -> Heads:
    # As Transformers 5 saves it; repositories have figures of their own for layers that look at everything.
    overrides = {int(layer): figures for layer, figures in (text.get("per_layer_config") or {}).items()}
    if index in overrides or not full:
        return heads_of({**text, **overrides.get(index, {})})
    size = text.get("global_head_dim", 512)
    shares = text.get("attention_k_eq_v", False)
    key_values = (text.get("num_global_key_value_heads") if shares else None) or text["num_key_value_heads"]
    return Heads(text["num_attention_heads"] * size, key_values * size, size)


def _attention(text: Config, heads: Heads, *, full: bool, borrows: bool) -> tuple[Linear, ...]:
    missing = {"k_proj", "v_proj"} if borrows else {"v_proj"} if full and text.get("attention_k_eq_v") else set()
    return tuple(linear for linear in attention_linears(text["hidden_size"], heads) if linear.suffix not in missing)


def _with_experts(text: Config, layer: Layer) -> Layer:
    hidden, count, inner = text["hidden_size"], expert_count(text), text["moe_intermediate_size"]
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


def _per_layer_width(text: Config) -> int:
    if text["model_type"].startswith("gemma4_unified"):
        return 0
    width = text.get("hidden_size_per_layer_input", 256)
    return int(width or 0)


def gemma4_embeddings(text: Config) -> int:
    """The embedding that every layer adds its part of, and its way in from the first one."""
    width = _per_layer_width(text)
    if not width:
        return 0
    all_layers = text["num_hidden_layers"] * width
    vocabulary = text.get("vocab_size_per_layer_input", 262_144)
    return int(vocabulary * all_layers + text["hidden_size"] * all_layers + width)
