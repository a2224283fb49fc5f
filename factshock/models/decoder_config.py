"""Sizes and variants of a Llama or Mistral."""

import dataclasses

from factshock.models.model_config import ATTENTION, DEPTH, DTYPE, EVEN, REMAT, SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import FLAG, Check, check_fields, setting

PAD = -1  # the token that stands for padding

_ROPE_SCALING = Check(
  (type(None), tuple, list),
  lambda v: v is None or (len(v) == 4 and all(map(SCALE.fits, v))),
  "None or four numbers above 0",
)
_WINDOW = Check(
  (type(None), int), lambda v: v is None or v >= 1, "None or a whole number of at least 1"
)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Holds the sizes of a Llama or Mistral (see ModelConfig for those that all models have).

  `rope_scaling` is None, or Llama 3's four numbers (rotary.frequencies). `sliding_window` is None,
  or how many tokens back a query sees, itself included.

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
