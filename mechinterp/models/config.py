"""One dataclass that says what a network is, checked when it is made."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from mechinterp.hooks import TransformerLensConfig
from mechinterp.tasks.base import tuples

ACTIVATIONS = ("relu", "gelu", "gelu_new", "solu", "square")
Positions = Literal["standard", "sinusoidal", "rotary", "alibi", "none"]


class DerivedInt(int):
    """A number that follows from other fields, and follows them when a config is copied with changes."""


class DerivedFloat(float):
    """As ``DerivedInt``, of a real number."""


DERIVED = {"n_heads": -1, "d_mlp": None, "d_vocab_out": -1, "attn_scale": -1.0, "rotary_dim": None}
"""Fields that follow from others unless they are given, and the values that ask for it."""
PLAIN = {
    "int": (numbers.Integral, int),
    "float": (numbers.Real, float),
    "bool": (bool, bool),
    "Optional[int]": (numbers.Integral, int),
    "int | None": (numbers.Integral, int),
}
"""Types of fields by their annotations, and what their values are made."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_SEED = 2**63 - 1


@dataclass(kw_only=True)
class TransformerConfig(TransformerLensConfig):
    """The shape and kind of a ``HookedTransformer``.

    Field names are TransformerLens's wherever it has them. Inherited: ``d_model``, ``d_head``,
    ``n_layers``, ``n_ctx``, ``n_heads``, ``d_mlp``, ``d_vocab``, ``attn_only``, ``eps``,
    ``use_attn_result``, ``use_split_qkv_input``, ``normalization_type`` (``None``, ``"LN"``,
    ``"LNPre"``, ``"RMS"`` or ``"RMSPre"``) and ``act_fn`` (``"relu"``, ``"gelu"``,
    ``"gelu_new"``, ``"solu"`` or ``"square"``). It is not frozen because TransformerLens's
    tools switch the ``use_`` flags.

    Raises:
        ValueError: what is asked for cannot be; the message says expected, got and remedy.
    """

    normalization_type: str | None = None

    d_vocab_out: int = -1
    """Number of outputs a position: tokens, classes or real values. -1 means ``d_vocab``."""

    d_input: int | None = None
    """Length of real input vectors; ``None`` means that inputs are token ids."""

    readout: Literal["tokens", "classes", "values"] = "tokens"
    """What the outputs are: logits of the next token, logits of classes, or real values."""

    attention_dir: Literal["causal", "bidirectional"] = "causal"
    """Whether a position attends to later ones."""

    attention: Literal["softmax", "linear"] = "softmax"
    """Linear attention leaves out the softmax: the pattern is the masked scores."""

    average_keys: bool = False
    """Linear attention: divide the pattern by how many keys a query may look at."""

    raw_tokens: bool = False
    """The stream is the input vectors themselves: ``W_E`` is the identity and ``W_U`` reads minus the last
    entries off the stream, and neither is trained (von Oswald et al. 2023)."""

    use_attn_scale: bool = True
    """Divide attention scores by ``attn_scale``."""

    attn_scale: float = -1.0
    """What scores are divided by; -1 means sqrt(d_head)."""

    positional_embedding_type: Positions = "standard"
    """``"standard"`` is a learned table; rotary and ALiBi act inside attention."""

    learned_positions: int = -1
    """Rows of the learned table; positions behind the last one take its vector. -1 means ``n_ctx``."""

    randomised_positions: int = 0
    """Positions are drawn, in increasing order, from so many (Ruoss et al. 2023): anew at every run in
    training mode, for all its sequences of a length. In evaluation mode those of a sequence's real tokens are
    spread evenly over as many, so that no answer hangs on a draw. 0: they are 0, 1, 2 and so on."""

    attn_log_n: int = 0
    """From so many keys on, scores are multiplied by log(keys) / log(this) before the softmax (Chiang &
    Cholak 2022), ALiBi's biases along with them, which keeps attention as sharp as it is there; 0: never.
    ``hook_attn_scores`` has the scores before that."""

    rotary_dim: int | None = None
    """How many of a head's dimensions rotate; ``None`` means all of them."""

    rotary_base: float = 10000.0
    """Base of the rotary wavelengths."""

    rotary_adjacent_pairs: bool = False
    """Rotate neighbours (GPT-J) rather than the two halves of a head (GPT-NeoX)."""

    dropout: float = 0.0
    """Probability of dropping an entry of the embedding and of each sublayer's output."""

    tie_embeddings: bool = False
    """Read out with the transposed embedding: ``W_U`` is ``W_E.T``."""

    use_biases: bool = True
    """Train the biases. They exist either way, so that weights have TransformerLens's shapes;
    without this they stay at zero."""

    use_attn_in: bool = False
    """Give each head its own copy of the attention input, at ``hook_attn_in``."""

    use_hook_mlp_in: bool = False
    """Pass the input of the MLP through ``hook_mlp_in``."""

    init_mode: Literal["fan_in", "nanda", "gpt2", "identity"] = "fan_in"
    """Weights are normal with standard deviation 1/sqrt(fan in); ``"nanda"``: 1/sqrt(d_model)
    throughout and 1/sqrt(d_vocab_out) for the readout, as in the code of Nanda et al. (2023);
    ``"gpt2"``: 0.02; ``"identity"``: heads begin by comparing tokens as they are, ``W_Q`` and ``W_K`` being
    half the identity and ``W_V`` the identity, plus 0.02, and write nothing yet, ``W_O`` being 0."""

    codebook_size: int = 0
    """Codes of each codebook; 0 builds the network without them."""

    codebook_top_k: int = 1
    """How many codes pass at a time."""

    codebook_sites: tuple[str, ...] = ("attn", "mlp")
    """Behind which sublayers of each block a codebook stands, as ``codebook_attn`` and ``codebook_mlp``."""

    codebook_temperature: float = 1.0
    """What similarities to codes are divided by, to begin with; see ``training.codebooks.Anneal``."""

    codebook_noise: bool = False
    """Add Gumbel noise to similarities while training."""

    codebook_soft: bool = False
    """Let the softmax over codes pass while training; otherwise the codes chosen pass then, too."""

    seed: int = 0
    """Seed of the initial weights."""

    def __post_init__(self) -> None:
        for name, sentinel in DERIVED.items():
            if isinstance(getattr(self, name), DerivedInt | DerivedFloat):
                setattr(self, name, sentinel)
        derived = [name for name, sentinel in DERIVED.items() if getattr(self, name) == sentinel]
        self._check_types()
        if self.n_heads == -1:
            _need(
                self.d_head > 0 and self.d_model % self.d_head == 0,
                f"d_model divisible by d_head, got d_model={self.d_model}, d_head={self.d_head}",
                "change one of them, or give n_heads",
            )
        self.device = self.device or "cpu"  # networks this small are no faster on a GPU; ask for one by name
        check_device(self.device)
        super().__post_init__()
        for name in ("d_model", "d_head", "n_layers", "n_ctx", "n_heads"):
            _need(getattr(self, name) >= 1, f"{name} >= 1, got {getattr(self, name)}", f"raise {name}")
        for name in ("d_mlp", "d_input"):
            size = getattr(self, name)
            _need(size is None or size >= 1, f"{name} >= 1, got {size}", f"raise {name}, or leave it out")
        if self.d_input is None:
            _need(
                self.d_vocab >= 1,
                f"d_vocab >= 1, got {self.d_vocab}",
                "give d_vocab, or d_input for real vectors",
            )
        if self.d_vocab_out == -1:
            self.d_vocab_out = self.d_vocab
        _need(
            self.d_vocab_out >= 1,
            f"d_vocab_out >= 1, got {self.d_vocab_out}",
            "give d_vocab_out: the number of outputs a position",
        )
        self._check_choices()
        self._check_numbers()
        self._check_positions()
        self._check_codebooks()
        self._check_idle()
        if self.attn_scale == -1.0:
            self.attn_scale = math.sqrt(self.d_head)
        for name in derived:
            if (value := getattr(self, name)) is not None:
                setattr(self, name, (DerivedFloat if name == "attn_scale" else DerivedInt)(value))
        self.final_rms = self.normalization_type in ("RMS", "RMSPre")
        self.uses_rms_norm = self.final_rms

    def _check_types(self) -> None:
        for each in fields(self):
            kind = each.type if isinstance(each.type, str) else getattr(each.type, "__name__", str(each.type))
            value = getattr(self, each.name)
            if kind.removeprefix("typing.") not in PLAIN or (value is None and each.name in DERIVED):
                continue
            wanted, made = PLAIN[kind.removeprefix("typing.")]
            if value is None and each.default is None:
                continue
            if not isinstance(value, wanted) or (isinstance(value, bool) and made is not bool):
                raise TypeError(
                    f"expected {each.name} of type {made.__name__}, got {value!r} of type "
                    f"{type(value).__name__}; convert it"
                )
            setattr(self, each.name, made(value))  # numpy's numbers, and whole numbers for real ones

    def _check_numbers(self) -> None:
        _need(
            self.dtype in DTYPES,
            f"dtype one of {[str(dtype) for dtype in DTYPES]}, got {self.dtype}",
            "choose one",
        )
        for name in ("eps", "rotary_base", "codebook_temperature", "attn_scale"):
            value = getattr(self, name)
            given = name != "attn_scale" or value != -1.0
            _need(
                not given or (math.isfinite(value) and value > 0),
                f"a finite {name} > 0, got {value}",
                "raise it, or leave it out",
            )
        for name in ("d_mlp", "d_input"):
            value = getattr(self, name)
            _need(value is None or value >= 1, f"{name} >= 1, got {value}", "raise it, or leave it out")
        _need(0 <= self.seed <= LARGEST_SEED, f"seed of 0 to 2**63 - 1, got {self.seed}", "choose another")

    def _check_idle(self) -> None:
        """Refuse what would do nothing in this network."""
        rotary = self.positional_embedding_type == "rotary"
        acts_if = {
            "eps": (self.normalization_type is not None, "normalization_type None"),
            "rotary_dim": (rotary, f"positional_embedding_type {self.positional_embedding_type!r}"),
            "rotary_base": (rotary, f"positional_embedding_type {self.positional_embedding_type!r}"),
            "rotary_adjacent_pairs": (
                rotary,
                f"positional_embedding_type {self.positional_embedding_type!r}",
            ),
            "attn_scale": (self.use_attn_scale, "use_attn_scale=False"),
            "use_hook_mlp_in": (not self.attn_only, "attn_only=True"),
            "layer_norm_folding": (False, "any config: normalization_type 'LNPre' says it"),
            "experts_per_token": (False, "a plain MLP"),
        }
        acts_if |= {
            each.name: (self.codebook_size > 0, "codebook_size=0")
            for each in fields(self)
            if each.name.startswith("codebook_")
        }
        for each in fields(self):
            acts, where = acts_if.get(each.name, (True, ""))
            value = getattr(self, each.name)
            _need(
                acts or value == each.default,
                f"{each.name}={each.default!r} with {where}, where it has no effect, got {value!r}",
                "leave it out, or change the other",
            )

    def _check_choices(self) -> None:
        choices = {
            "act_fn": ACTIVATIONS,
            "normalization_type": (None, "LN", "LNPre", "RMS", "RMSPre"),
            "positional_embedding_type": ("standard", "sinusoidal", "rotary", "alibi", "none"),
            "attention": ("softmax", "linear"),
            "attention_dir": ("causal", "bidirectional"),
            "readout": ("tokens", "classes", "values"),
            "init_mode": ("fan_in", "nanda", "gpt2", "identity"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            _need(value in allowed, f"{name} one of {list(allowed)}, got {value!r}", "choose one")
        _need(0 <= self.dropout < 1, f"dropout in [0, 1), got {self.dropout}", "it is a probability")
        _need(
            self.n_key_value_heads in (None, self.n_heads),
            f"n_key_value_heads None, got {self.n_key_value_heads}",
            "grouped-query attention is not built",
        )
        _need(
            not self.gated_mlp and self.num_experts is None,
            f"a plain MLP, got gated_mlp={self.gated_mlp}, num_experts={self.num_experts}",
            "neither gates nor experts are built",
        )
        _need(
            not self.average_keys or self.attention == "linear",
            f"linear attention for average_keys, got {self.attention}",
            "softmax averages already: switch average_keys off",
        )
        _need(
            self.init_mode != "identity" or self.d_head == self.d_model,
            f"d_head equal to d_model for init_mode identity, got {self.d_head} and {self.d_model}",
            "choose another init_mode",
        )
        if self.raw_tokens:
            _need(
                self.d_input == self.d_model and self.d_vocab_out <= self.d_model,
                f"d_input equal to d_model for raw_tokens, and at most as many outputs, got "
                f"d_input={self.d_input}, d_model={self.d_model}, d_vocab_out={self.d_vocab_out}",
                "change one of them, or train an embedding",
            )
        if self.tie_embeddings:
            _need(
                self.d_input is None and self.d_vocab_out == self.d_vocab,
                f"d_vocab_out equal to d_vocab for tied embeddings, got {self.d_vocab_out} and "
                f"{self.d_vocab}",
                "untie them, or make them equal",
            )

    def _check_positions(self) -> None:
        if self.positional_embedding_type == "rotary":
            if self.rotary_dim is None:
                self.rotary_dim = self.d_head
            _need(
                self.rotary_dim % 2 == 0 and 0 < self.rotary_dim <= self.d_head,
                f"an even rotary_dim of at most d_head={self.d_head}, got {self.rotary_dim}",
                "make d_head even, or give an even rotary_dim",
            )
        kind, rows, drawn = (
            self.positional_embedding_type,
            self.learned_positions,
            self.randomised_positions,
        )
        _need(
            rows == -1 or (kind == "standard" and 1 <= rows <= self.n_ctx and not drawn),
            f"learned_positions of 1 to n_ctx={self.n_ctx} for a learned table whose positions are not "
            f"drawn, got {rows} with {kind} and randomised_positions={drawn}",
            "leave it at -1",
        )
        _need(
            drawn == 0 or (kind in ("standard", "sinusoidal") and drawn >= self.n_ctx),
            f"randomised_positions of at least n_ctx={self.n_ctx} for positions that are added to the "
            f"stream, got {drawn} with {kind}",
            "raise it, or set it to 0",
        )
        _need(
            self.attn_log_n == 0 or (self.attn_log_n > 1 and self.attention == "softmax"),
            f"attn_log_n of at least 2 for softmax attention, or 0, got {self.attn_log_n} with "
            f"{self.attention}",
            "set it to the longest length of training, or to 0",
        )
        if self.positional_embedding_type == "sinusoidal":
            _need(
                self.d_model % 2 == 0,
                f"an even d_model for sinusoidal positions, got {self.d_model}",
                "make d_model even",
            )

    def _check_codebooks(self) -> None:
        size, top_k = self.codebook_size, self.codebook_top_k
        _need(size >= 0, f"codebook_size >= 0, got {size}", "0 builds no codebooks")
        if size == 0:
            return
        _need(
            1 <= top_k <= size,
            f"codebook_top_k of 1 to codebook_size={size}, got {top_k}",
            "lower it, or have more codes",
        )
        _need(
            self.codebook_temperature > 0,
            f"codebook_temperature > 0, got {self.codebook_temperature}",
            "raise it",
        )
        allowed = ("attn",) if self.attn_only else ("attn", "mlp")
        _need(
            isinstance(self.codebook_sites, tuple)
            and sorted(set(self.codebook_sites)) == sorted(self.codebook_sites)
            and len(self.codebook_sites) > 0
            and set(self.codebook_sites) <= set(allowed),
            f"a tuple of codebook_sites among {allowed}, each once and at least one, got "
            f"{self.codebook_sites!r}",
            "name some, or set codebook_size=0",
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; ``from_json`` reads them back."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        derived = [name for name in DERIVED if isinstance(record[name], DerivedInt | DerivedFloat)]
        record |= {name: record[name].__class__.__base__(record[name]) for name in derived}
        dtype = str(self.dtype).removeprefix("torch.")
        return record | {"dtype": dtype, "device": None, "derived": derived}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> TransformerConfig:
        """A config from ``to_json``'s record.

        Raises:
            ValueError: a field that this version does not know.
        """
        record = _with_derived(record)
        derived = record.pop("derived")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(record) - known)
        _need(not unknown, f"fields of TransformerConfig, got {unknown}", "the file is of another version")
        plain = {name: tuples(value) for name, value in record.items()}
        plain |= {name: DERIVED[name] for name in derived if name in DERIVED}
        return cls(**plain | {"dtype": getattr(torch, record.get("dtype", "float32"))})


@dataclass(kw_only=True)
class EncoderDecoderConfig(TransformerConfig):
    """As ``TransformerConfig``, of the decoder; the encoder is like it, but bidirectional.

    Raises:
        ValueError: as ``TransformerConfig``; positions inside attention, which mean nothing between two
            sequences; no encoder.
    """

    n_encoder_layers: int = 2
    """Blocks of the encoder."""

    n_ctx_source: int = 16
    """Length of the source; shorter ones are padded and masked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_encoder_layers", "n_ctx_source"):
            _need(getattr(self, name) >= 1, f"{name} >= 1, got {getattr(self, name)}", f"raise {name}")
        added = self.positional_embedding_type not in ("rotary", "alibi") and not self.randomised_positions
        _need(
            added and self.attention_dir == "causal",
            f"positions that are added to the stream and not drawn, and a causal decoder, got "
            f"positional_embedding_type={self.positional_embedding_type!r}, "
            f"attention_dir={self.attention_dir!r}, randomised_positions={self.randomised_positions}",
            "take standard, sinusoidal or none",
        )
        _need(self.d_input is None, f"token ids, got d_input={self.d_input}", "leave it out")
        _need(
            self.codebook_size == 0,
            f"no codebooks, got codebook_size={self.codebook_size}",
            "they are built in networks of one stack",
        )

    @property
    def encoder(self) -> TransformerConfig:
        """The config of the encoder's blocks."""
        own = {f.name: getattr(self, f.name) for f in fields(TransformerConfig) if f.init}
        changes = {
            "n_layers": self.n_encoder_layers,
            "n_ctx": self.n_ctx_source,
            "attention_dir": "bidirectional",
            "tie_embeddings": False,
        }
        return TransformerConfig(**own | changes)


def check_device(device: Any) -> None:
    """Refuse a device that is not there, or that is none.

    Raises:
        ValueError: as said.
    """
    try:
        torch.empty(0, device=device)
    except Exception as error:  # torch has one of its own for each kind of device
        raise ValueError(
            f"expected a device that torch has here, got {str(device)!r} "
            f'({(str(error).splitlines() or [""])[0]}); use device="cpu"'
        ) from None


def _with_derived(record: dict[str, Any]) -> dict[str, Any]:
    """A record that says which fields follow from others; without that, a scale of sqrt(d_head) does."""
    if "derived" in record:
        return dict(record)
    follows = not record.get("use_attn_scale", True) or record.get("attn_scale") == math.sqrt(
        record.get("d_head", 0)
    )
    idle = [name for name in record if name.startswith("codebook_") and not record.get("codebook_size")]
    rest = {name: value for name, value in record.items() if name not in idle}
    return rest | {"derived": ["attn_scale"] if follows else []}


def _need(condition: bool, expected_got: str, remedy: str) -> None:
    if not condition:
        raise ValueError(f"expected {expected_got}; {remedy}")
