"""The shape of a base model: what there is to load, to quantise and to adapt. Pure.

`read_shape` in architectures.py makes one of a `config.json`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from appliance.errors import InputError, Problem, Reason


class Tier(StrEnum):
    """How a base model can be trained here."""

    IN_4_BIT = "in 4 bits and in 16"
    IN_16_BIT = "in 16 bits only"
    REFUSED = "not here"


@dataclass(frozen=True)
class Linear:
    """One linear layer of a decoder layer, by the name its module ends in.

    `adapted` says whether it belongs to attention or MLP, which `lora.target_modules: auto` is about; `quantised`
    whether loading in 4 bits quantises it.
    """

    suffix: str
    inputs: int
    outputs: int
    bias: bool = False
    adapted: bool = True
    quantised: bool = True

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + (self.outputs if self.bias else 0)

    def lora_parameters(self, rank: int) -> int:
        """The parameters of its two adapter matrices."""
        return rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class Layer:
    """One kind of decoder layer, and how many of its kind there are.

    `mlp_size` is the width between the MLP's projections, of all experts that a token goes through together;
    `window` how many tokens its attention looks back at, None for all.
    """

    linears: tuple[Linear, ...]
    attention_size: int
    key_value_size: int
    mlp_size: int
    other_parameters: int
    """Norms, biases of its own and the like: few, and never quantised."""
    expert_parameters: int = 0
    """Experts that are stored as one tensor: neither quantised nor adapted."""
    active_expert_parameters: int = 0
    window: int | None = None
    count: int = 1

    @property
    def parameters(self) -> int:
        linear = sum(linear.parameters for linear in self.linears)
        return linear + self.other_parameters + self.expert_parameters

    @property
    def linear_weights(self) -> int:
        return sum(linear.weights for linear in self.linears)


@dataclass(frozen=True)
class ModelShape:
    """A decoder: its layers by kind, between embedding and output head."""

    model_type: str
    layers: tuple[Layer, ...]
    hidden_size: int
    vocabulary: int
    positions: int
    tied_embeddings: bool
    other_parameters: int
    """The last norm, and embeddings besides the first."""
    tower_parameters: int = 0
    """Towers for images and sound around it: loaded, and left alone."""
    tier: Tier = Tier.IN_4_BIT
    tier_reason: str = ""

    @property
    def fingerprint(self) -> str:
        """The same for models of the same layers, whatever they are called."""
        return sha256(repr((self.layers, self.hidden_size, self.vocabulary)).encode()).hexdigest()[:16]

    @property
    def layer_count(self) -> int:
        return sum(layer.count for layer in self.layers)

    @property
    def has_towers(self) -> bool:
        return self.tower_parameters > 0

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers inside the decoder layers: what 4-bit loading quantises."""
        return sum(layer.count * layer.linear_weights for layer in self.layers)

    @property
    def embedding_parameters(self) -> int:
        """Embedding and output head, once when they are tied. These stay in 16 bit."""
        return self.vocabulary * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def total_parameters(self) -> int:
        """All parameters of the language model, without the towers around it."""
        decoder = sum(layer.count * layer.parameters for layer in self.layers)
        return decoder + self.embedding_parameters + self.other_parameters

    @property
    def active_parameters(self) -> int:
        """What one token is multiplied with, counted as the published figures of mixtures of experts are: without the
        experts that it does not visit, and without the embedding, in which it is only looked up."""
        resting = sum(layer.count * (layer.expert_parameters - layer.active_expert_parameters) for layer in self.layers)
        looked_up = 0 if self.tied_embeddings else self.vocabulary * self.hidden_size
        return self.total_parameters - resting - looked_up

    @property
    def compute_parameters(self) -> int:
        """Weights that every token is multiplied with: linear layers, its experts, and the output head."""
        experts = sum(layer.count * layer.active_expert_parameters for layer in self.layers)
        return self.linear_parameters + experts + self.vocabulary * self.hidden_size

    @property
    def is_mixture(self) -> bool:
        return any(layer.expert_parameters for layer in self.layers)

    def targets(self, wanted: str | Iterable[str]) -> tuple[str, ...]:
        """The names of the linear layers that `lora.target_modules` means; `auto` is all of attention and MLP.

        Raises InputError for a name that no layer of this architecture has.
        """
        known = {linear.suffix: linear.adapted for layer in self.layers for linear in layer.linears}
        if wanted == "auto":
            return tuple(suffix for suffix, adapted in known.items() if adapted)
        names = tuple(wanted)
        if strangers := [name for name in names if name not in known]:
            raise InputError(_unknown_module(name, self.model_type, known) for name in strangers)
        return tuple(suffix for suffix in known if suffix in names)

    def named(self, names: Iterable[str]) -> Iterator[tuple[int, Linear]]:
        """Every linear layer of those names, with how many of it there are."""
        names = frozenset(names)
        for layer in self.layers:
            for linear in layer.linears:
                if linear.suffix in names:
                    yield layer.count, linear


def _unknown_module(name: str, model_type: str, suffixes: Iterable[str]) -> Problem:
    known = ", ".join(suffixes)
    return Problem(
        code="unknown_target_module",
        message=f"lora.target_modules names {name}, but no linear layer of this {model_type} model is called so; "
        f"there are {known}",
        reason=Reason.RECIPE_SCHEMA,
        key="lora.target_modules",
        found=name,
        expected=known,
    )
