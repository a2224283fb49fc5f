"""Sizes and variants of a T5."""

import dataclasses

from factshock.models.model_config import ATTENTION, DEPTH, DROPOUT, DTYPE, REMAT, SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import FLAG, Check, check_fields, choice, setting

FEED_FORWARDS = ("gated-gelu", "gated-silu", "relu")
_BUCKETS = Check((int,), lambda v: 4 <= v < 1 << 31 and v % 2 == 0, "an even number from 4")


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Holds the sizes and variants of a T5 model (see ModelConfig for those that all models have).

  v1.1, mT5 and ByT5 are feed_forward="gated-gelu", tie_head=False; v1.0 is feed_forward="relu",
  tie_head=True. UMT5 is v1.1 with bias_in_every_layer=True: a relative position bias of its own in
  each layer, where the others have one for all layers of the encoder and one for the decoder's.

  Attributes:
    encoder_layers: layers of the encoder.
    decoder_layers: layers of the decoder.
    relative_buckets: groups of distances between tokens, each with a bias of its own.
    relative_max_distance: distance from which on all are one group.
    bias_in_every_layer: gives each layer a relative position bias of its own, as UMT5 does.

  Raises:
    UserError: a value out of range.
  """

  vocab_size: int = setting(SIZE)
  d_model: int = setting(SIZE)
  d_ff: int = setting(SIZE)
  num_heads: int = setting(SIZE)
  d_kv: int = setting(SIZE)
  encoder_layers: int = setting(DEPTH)
  decoder_layers: int = setting(DEPTH)
  relative_buckets: int = setting(_BUCKETS, default=32)
  relative_max_distance: int = setting(SIZE, default=128)
  bias_in_every_layer: bool = setting(FLAG, default=False)
  feed_forward: str = setting(choice(*FEED_FORWARDS), default="gated-gelu")
  tie_head: bool = setting(FLAG, default=False)
  dropout: float = setting(DROPOUT, default=0.0)
  dtype: str = setting(DTYPE, default="float32")
  param_dtype: str = setting(DTYPE, default="float32")
  unroll: bool = setting(FLAG, default=False)
  remat: str = setting(REMAT, default="none")
  attention: str = setting(ATTENTION, default="xla")
  epsilon: float = setting(SCALE, default=1e-6)

  def __post_init__(self) -> None:
    check_fields(self, "model")
    half = self.relative_buckets // 2
    if self.relative_max_distance <= half:
      raise UserError(
        f"model.relative_max_distance: expected more than half of relative_buckets ({half}), "
        f"got {self.relative_max_distance!r}"
      )
