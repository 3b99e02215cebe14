"""The shape of a base model, read from its `config.json`: what there is to load, to quantise and to adapt. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from appliance.errors import InputError, Problem, Reason

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: Final = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Linear:
    """One linear layer of every decoder layer, by the name its module ends in."""

    suffix: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    def lora_parameters(self, rank: int) -> int:
        """The parameters of its two adapter matrices."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder: `layers` times the same linear layers and norms, between embedding and output head."""

    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_size: int
    key_value_size: int
    vocabulary: int
    positions: int
    tied_embeddings: bool
    linears: tuple[Linear, ...]
    norm_parameters: int

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers inside the decoder layers: what 4-bit loading quantises."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Embedding and output head, once when they are tied. These stay in 16 bit."""
        return self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def total_parameters(self) -> int:
        biases = self.layers * sum(linear.outputs for linear in self.linears if linear.bias)
        return self.linear_parameters + biases + self.embedding_parameters + self.norm_parameters

    @property
    def compute_parameters(self) -> int:
        """Weights that every token is multiplied with: all linear layers and the output head."""
        return self.linear_parameters + self.vocabulary * self.hidden_size

    def targets(self, wanted: str | Iterable[str]) -> tuple[Linear, ...]:
        """The linear layers that `lora.target_modules` names; `auto` is all of them.

        Raises InputError for a name that no layer of this architecture has.
        """
        if wanted == "auto":
            return self.linears
        names = tuple(wanted)
        known = {linear.suffix for linear in self.linears}
        if strangers := [name for name in names if name not in known]:
            raise InputError(_unknown_module(name, self) for name in strangers)
        return tuple(linear for linear in self.linears if linear.suffix in names)


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a `config.json` describes; that of the language model where it is wrapped in a multimodal one.

    Raises InputError for an architecture this version cannot count exactly.
    """
    text = config.get("text_config", config)
    model_type = str(text.get("model_type") or config.get("model_type"))
    if model_type not in _DENSE:
        raise InputError([_cannot_plan(model_type)])
    try:
        return _dense_shape(model_type, text, config)
    except KeyError as error:
        raise InputError([_missing_figure(model_type, error.args[0])]) from None


@dataclass(frozen=True)
class _Traits:
    """Where the dense architectures differ. `None` means that `config.json` decides."""

    attention_bias: bool | None = False
    output_bias: bool | None = False
    query_key_norm: bool = False


_DENSE: Final[Mapping[str, _Traits]] = {
    "llama": _Traits(attention_bias=None, output_bias=None),
    "mistral": _Traits(),
    "qwen2": _Traits(attention_bias=True),
    "qwen3": _Traits(attention_bias=None, output_bias=None, query_key_norm=True),
}


def _dense_shape(model_type: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> ModelShape:
    traits = _DENSE[model_type]
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    head_size = text.get("head_dim") or hidden // heads
    key_value_heads = text.get("num_key_value_heads") or heads
    layers = text["num_hidden_layers"]
    # Two norms a layer and one at the end; Qwen 3 also normalises queries and keys, head by head.
    norms = (2 * layers + 1) * hidden + (2 * layers * head_size if traits.query_key_norm else 0)
    return ModelShape(
        model_type=model_type,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=text["intermediate_size"],
        attention_size=heads * head_size,
        key_value_size=key_value_heads * head_size,
        vocabulary=text["vocab_size"],
        positions=text.get("max_position_embeddings", 2048),
        tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        linears=_linears(traits, text, heads * head_size, key_value_heads * head_size),
        norm_parameters=norms,
    )


def _linears(traits: _Traits, text: Mapping[str, Any], attention: int, key_value: int) -> tuple[Linear, ...]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    bias = bool(text.get("attention_bias", False)) if traits.attention_bias is None else traits.attention_bias
    output_bias = bool(text.get("attention_bias", False)) if traits.output_bias is None else traits.output_bias
    mlp_bias = bool(text.get("mlp_bias", False))
    return (
        Linear("q_proj", hidden, attention, bias),
        Linear("k_proj", hidden, key_value, bias),
        Linear("v_proj", hidden, key_value, bias),
        Linear("o_proj", attention, hidden, output_bias),
        Linear("gate_proj", hidden, inner, mlp_bias),
        Linear("up_proj", hidden, inner, mlp_bias),
        Linear("down_proj", inner, hidden, mlp_bias),
    )


def _cannot_plan(model_type: str) -> Problem:
    return Problem(
        code="unknown_architecture",
        message=f"the base model is of the architecture {model_type}, whose memory this version cannot plan; "
        f"it can plan {', '.join(_DENSE)}",
        reason=Reason.WOULD_NOT_FIT,
        key="base_model",
        found=model_type,
        expected=", ".join(_DENSE),
    )


def _missing_figure(model_type: str, figure: str) -> Problem:
    return Problem(
        code="incomplete_config",
        message=f"the base model's config.json says {model_type} but does not say {figure}",
        reason=Reason.OTHER,
        key="base_model",
        expected=figure,
    )


def _unknown_module(name: str, shape: ModelShape) -> Problem:
    known = ", ".join(linear.suffix for linear in shape.linears)
    return Problem(
        code="unknown_target_module",
        message=f"lora.target_modules names {name}, but no linear layer of this {shape.model_type} model is called so; "
        f"there are {known}",
        reason=Reason.RECIPE_SCHEMA,
        key="lora.target_modules",
        found=name,
        expected=known,
    )
