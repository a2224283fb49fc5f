"""Sizes and variants of a Llama and of its relatives."""

import dataclasses
import functools
from typing import NamedTuple

from factshock.models.model_config import ATTENTION, DEPTH, DTYPE, EVEN, REMAT, SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import FLAG, WHOLE, Check, check_fields, setting, tuple_of

PAD = -1  # the token that stands for padding

_ROPE_SCALING = Check(
  (type(None), tuple, list),
  lambda v: v is None or (len(v) in (1, 4) and all(map(SCALE.fits, v))),
  "None, one number above 0 (linear) or four (Llama 3's)",
)
_WINDOW = Check(
  (type(None), int), lambda v: v is None or v >= 1, "None or a whole number of at least 1"
)
# Numbers that change nothing where they are None.
OPTIONAL = Check(
  (type(None), int, float),
  lambda v: v is None or SCALE.fits(v),
  "None or a finite number above 0",
)
LAYERS = tuple_of(WHOLE)


class Kind(NamedTuple):
  """Says what the queries of a layer see: layers of one kind share masks and positions.

  Attributes:
    window: how many tokens back a query sees, itself included; None for all.
    theta: base of the wavelengths of positions; None where positions turn nothing.
    scaling: of the wavelengths, as rotary.frequencies takes it.
  """

  window: int | None
  theta: float | None
  scaling: tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class Variant:
  """Says in what the layers of a family differ from Llama's, which the defaults are.

  Attributes:
    qkv_bias: whether queries, keys and values have a bias.
    qk_norm: what is normed of queries and keys: "none"; each "head"; all heads of a token, "whole".
    norm_before: whether attention and feed-forward read the normed stream.
    norm_after: whether what they make is normed before it is added to the stream.
    norm_offset: added to the scale of every norm, by which is then multiplied in float32; None
      multiplies by the scale in the dtype of the computation.
    query_scale: of queries; None is d_kv ** -0.5.
    embedding_scale: of what tokens are embedded as.
    attention_softcap: scores s become cap * tanh(s / cap); None leaves them.
    logits_softcap: likewise of logits.
  """

  qkv_bias: bool = False
  qk_norm: str = "none"
  norm_before: bool = True
  norm_after: bool = False
  norm_offset: float | None = None
  query_scale: float | None = None
  embedding_scale: float | None = None
  attention_softcap: float | None = None
  logits_softcap: float | None = None


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Holds the sizes of a Llama or Mistral (see ModelConfig for those that all models have).

  Attributes:
    num_kv_heads: heads of keys and values, each shared by as many heads of queries.
    layers: layers of the one stack.
    rope_theta: base of the wavelengths of positions.
    rope_scaling: None, one number by which positions are divided (linear), or Llama 3's four
      (rotary.frequencies).
    sliding_window: how many tokens back a query sees, itself included; None for all.
    max_length: tokens of a row, at most.

  Raises:
    UserError: a value out of range.
  """

  vocab_size: int = setting(SIZE)
  d_model: int = setting(SIZE)
  d_ff: int = setting(SIZE)
  num_heads: int = setting(SIZE)
  num_kv_heads: int = setting(SIZE)
  d_kv: int = setting(EVEN)  # positions turn pairs of it
  layers: int = setting(DEPTH)
  rope_theta: float = setting(SCALE, default=10000.0)
  rope_scaling: tuple[float, ...] | None = setting(_ROPE_SCALING, default=None)
  sliding_window: int | None = setting(_WINDOW, default=None)
  max_length: int = setting(SIZE, default=4096)
  tie_head: bool = setting(FLAG, default=False)
  dtype: str = setting(DTYPE, default="float32")
  param_dtype: str = setting(DTYPE, default="float32")
  unroll: bool = setting(FLAG, default=False)
  remat: str = setting(REMAT, default="none")
  attention: str = setting(ATTENTION, default="xla")
  epsilon: float = setting(SCALE, default=1e-5)

  def __post_init__(self) -> None:
    check_fields(self, "model")
    if self.num_heads % self.num_kv_heads:
      raise UserError(
        f"model.num_kv_heads: expected a divisor of num_heads ({self.num_heads}), "
        f"got {self.num_kv_heads}"
      )

  @property
  def feed_forward(self) -> str:
    """Returns the kind of the feed-forward layers, one for all models of the family."""
    return "gated-silu"

  @property
  def dropout(self) -> float:
    """Returns 0: the family has no dropout."""
    return 0.0

  @property
  def variant(self) -> Variant:
    """Returns in what the family's layers differ from Llama's."""
    return Variant()

  @property
  def reach(self) -> int | None:
    """Returns how many tokens back the queries of some layer see; None where that is all."""
    windows = [kind.window for kind in kinds(self)[0]]
    seen = [window for window in windows if window is not None]
    return max(seen) if len(seen) == len(windows) else None

  def kind_of(self, layer: int) -> Kind:
    """Returns what the queries of a layer see."""
    del layer
    return Kind(self.sliding_window, self.rope_theta, self.rope_scaling)


@dataclasses.dataclass(frozen=True)
class MixedConfig(LlamaConfig):
  """Holds the sizes of a model some of whose layers see all tokens.

  Attributes:
    global_layers: indices of the layers that see all tokens, from 0; the others see
      `sliding_window`.
  """

  global_layers: tuple[int, ...] = setting(LAYERS, default=())

  def __post_init__(self) -> None:
    super().__post_init__()
    check_layers(self, "global_layers")
    if self.global_layers and self.sliding_window is None:
      raise UserError(
        "model.global_layers: expected a sliding_window of the other layers, got None; without one "
        "every layer sees all tokens: leave global_layers empty"
      )

  def kind_of(self, layer: int) -> Kind:
    """Returns what the queries of a layer see."""
    kind = super().kind_of(layer)
    return kind._replace(window=None) if layer in self.global_layers else kind


def check_layers(config: LlamaConfig, name: str) -> None:
  """Raises a UserError where a setting of this name lists layers that are not there, or twice."""
  listed = getattr(config, name)
  if len(set(listed)) < len(listed) or any(layer >= config.layers for layer in listed):
    raise UserError(
      f"model.{name}: expected different layers from 0 to {config.layers - 1}, got {listed!r}"
    )


@functools.lru_cache(maxsize=64)
def kinds(config: LlamaConfig) -> tuple[tuple[Kind, ...], tuple[int, ...]]:
  """Returns the kinds of layers that a model has, and of each layer the index of its kind."""
  of_layers = [config.kind_of(layer) for layer in range(config.layers)]
  different = tuple(dict.fromkeys(of_layers))
  return different, tuple(map(different.index, of_layers))


def kernel_problems(config: LlamaConfig, length: int) -> list[str]:
  """Returns why one kernel cannot read rows of a length in all layers."""
  problems = []
  if config.variant.attention_softcap is not None:
    problems.append("caps no scores (attention_softcap)")
  seen = {min(kind.window or length, length) for kind in kinds(config)[0]}
  if len(seen) > 1:
    problems.append(f"has one window for all layers, got {' and '.join(map(str, sorted(seen)))}")
  return problems
