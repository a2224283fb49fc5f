"""Sizes that every model's config has, and the checks of their values."""

from typing import Any, ClassVar, Protocol

from factshock.models import fused, remat
from factshock.runtime import settings

DTYPES = ("float32", "bfloat16")
AUTO = "auto"  # in a config: the dtype that the device at hand is fastest in

DTYPE = settings.choice(*DTYPES)
REMAT = settings.choice(*remat.POLICIES)
ATTENTION = settings.choice(*fused.ATTENTIONS)
DROPOUT = settings.Check((int, float), lambda v: 0 <= v < 1, "a share from 0 to below 1")
# More layers would be listed for minutes before anything said that they are not there.
DEPTH = settings.Check((int,), lambda v: 1 <= v <= 10_000, "a whole number from 1 to 10,000")
SIZE = settings.Check((int,), lambda v: 1 <= v < 1 << 31, "a whole number from 1 to 2,147,483,647")
SCALE = settings.Check((int, float), lambda v: 0 < v < float("inf"), "a finite number above 0")
EVEN = settings.Check(
  (int,), lambda v: 2 <= v < 1 << 31 and v % 2 == 0, "an even number of at least 2"
)


class ModelConfig(Protocol):
  """Sizes and variants that generic code reads of a model's config, a frozen dataclass.

  Attributes:
    vocab_size: tokens that it knows.
    d_model: width of the stream between layers.
    d_ff: width inside the feed-forward layers.
    num_heads: heads of attention.
    d_kv: width of a head.
    feed_forward: activation of the feed-forward layers, and whether another product gates it.
    tie_head: makes logits by the embedding, without a head of its own.
    dropout: share of the values that training drops.
    dtype: of the computation; "auto" is what the device is fastest in.
    param_dtype: of the parameters.
    unroll: lays the layers out one after another: faster steps of shallow models, and longer
      compilation.
    remat: what the reverse pass keeps of each layer: all ("none"), least ("full": it computes the
      rest again), or something between.
    attention: how whole rows are read in training: "xla"; "cudnn", a kernel for bfloat16 on NVIDIA
      GPUs, without packed rows and dropout; or "auto", that kernel where it can be used.
    epsilon: added to the mean square that norms divide by.
  """

  __dataclass_fields__: ClassVar[dict[str, Any]]

  @property
  def vocab_size(self) -> int: ...
  @property
  def d_model(self) -> int: ...
  @property
  def d_ff(self) -> int: ...
  @property
  def num_heads(self) -> int: ...
  @property
  def d_kv(self) -> int: ...
  @property
  def feed_forward(self) -> str: ...
  @property
  def tie_head(self) -> bool: ...
  @property
  def dropout(self) -> float: ...
  @property
  def dtype(self) -> str: ...
  @property
  def param_dtype(self) -> str: ...
  @property
  def unroll(self) -> bool: ...
  @property
  def remat(self) -> str: ...
  @property
  def attention(self) -> str: ...
  @property
  def epsilon(self) -> float: ...
