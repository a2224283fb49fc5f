"""Attention by one kernel that writes no scores: cuDNN's, through jax.nn.dot_product_attention.

Only rows that train go this way (`hidden` of T5 and Llama); generating and ranking do not.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import products
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from factshock.models.model_config import ModelConfig

ATTENTIONS = ("xla", "cudnn", "auto")

# The `implementation` of jax.nn.dot_product_attention.
Kernel: TypeAlias = Literal["xla", "cudnn"]

_CAPABILITY = (8, 0)  # of the GPUs that cuDNN's kernel runs on, at least


class Backend(NamedTuple):
  """Says what JAX computes on.

  Attributes:
    platform: its name, such as "gpu".
    capability: an NVIDIA GPU's compute capability, as (9, 0); else None.
  """

  platform: str
  capability: tuple[int, ...] | None = None


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("bias", "lengths"),
  meta_fields=("kernel", "causal", "window"),
)
@dataclasses.dataclass(frozen=True)
class Seen:
  """Says what queries see, as a kernel takes it: in place of a bias [B, H, S, T] that holds masks.

  Attributes:
    bias: [1, H, S, T] of positions, or None.
    lengths: int32 [B], the keys of each row that are no padding; None for all.
    kernel: the `implementation` of jax.nn.dot_product_attention.
    causal: whether a query sees no key after it.
    window: how many keys back a causal query sees, itself included; None for all.
  """

  bias: jax.Array | None
  lengths: jax.Array | None
  kernel: Kernel
  causal: bool = False
  window: int | None = None


def attend(
  query_BxSxHxK: jax.Array, key_BxTxGxK: jax.Array, value_BxTxGxK: jax.Array, seen: Seen
) -> jax.Array:
  """Returns softmax attention without a scale: [B, S, H, K]; H / G query heads share a key head.

  Queries that are padding see what other queries of their row see, as in attention.attend: no row
  is left to the kernel's choice.
  """
  rows, length = query_BxSxHxK.shape[:2]
  bias = None if seen.bias is None else seen.bias.astype(query_BxSxHxK.dtype)
  query_lengths = None if seen.lengths is None else jnp.full(rows, length, jnp.int32)
  window = None
  if seen.window is not None and seen.window < length:
    window = (seen.window - 1, 0)
  return jax.nn.dot_product_attention(
    query_BxSxHxK,
    key_BxTxGxK,
    value_BxTxGxK,
    bias,
    scale=1.0,
    is_causal=seen.causal,
    implementation=seen.kernel,
    query_seq_lengths=query_lengths,
    key_value_seq_lengths=seen.lengths,
    local_window_size=window,
  )


def lengths(tokens_BxS: jax.Array) -> jax.Array:
  """Returns how many tokens stand before the padding 0 at the end of each row: int32 [B].

  It is 1 for a row of padding, as no softmax is of nothing.
  """
  return jnp.maximum(row_lengths(tokens_BxS), 1)


def row_lengths(tokens_BxS: jax.Array) -> jax.Array:
  """Returns the tokens of each row, int32 [B]: up to the last one that is not the padding 0."""
  length_S = np.arange(1, tokens_BxS.shape[1] + 1, dtype=np.int32)
  return jnp.max(jnp.where(tokens_BxS != 0, length_S[None], 0), axis=1, initial=0)


def full(tokens_BxS: jax.Array) -> jax.Array:
  """Returns lengths that leave nothing out: int32 [B].

  For a bias without padding: cuDNN's reverse pass gave NaN beside a bias where the last tile of
  keys was not full, unless lengths said where the keys end
  (github.com/pytorch/pytorch/issues/196678, github.com/NVIDIA/cudnn-frontend/issues/160).
  """
  return jnp.full(tokens_BxS.shape[0], tokens_BxS.shape[1], jnp.int32)


def kernel(
  model_config: "ModelConfig",
  sizes: Sequence[int],
  *,
  packed: bool,
  dropout: float = 0.0,
  others: Sequence[str] = (),
) -> Kernel | None:
  """Returns what `choose` does for the device that JAX computes on.

  It is None while products are counted (products.counted). For the arguments see `choose`.
  """
  if products.each_counts_once():
    return None
  return choose(model_config, backend(), sizes, packed=packed, dropout=dropout, others=others)


def choose(
  model_config: "ModelConfig",
  device: Backend,
  sizes: Sequence[int],
  *,
  packed: bool,
  dropout: float = 0.0,
  others: Sequence[str] = (),
) -> Kernel | None:
  """Returns the kernel that a config asks for: "cudnn", or None for matrix products and a softmax.

  Args:
    model_config: its `attention` ("auto" takes cuDNN where it can), `dtype` and `d_kv` count.
    device: what JAX computes on.
    sizes: the lengths of queries and keys.
    packed: whether rows hold segments, which lengths cannot tell.
    dropout: that of attention weights, 0 where it is off.
    others: what the family knows besides that cuDNN cannot do.

  Raises:
    UserError: "cudnn" where it cannot; names why.
  """
  if model_config.attention == "xla":
    return None
  problems = [*_device_problems(device), *_size_problems(model_config, sizes), *others]
  if packed:
    problems.append("reads no packed rows; set pack=False")
  if dropout:
    problems.append(f"drops no attention weights; set config.model.dropout=0.0, got {dropout:g}")
  if not problems:
    return "cudnn"
  if model_config.attention == "cudnn":
    raise UserError(
      f"config.model.attention='cudnn': {'; '.join(problems)}; 'auto' takes cuDNN only where it can"
    )
  return None


def backend() -> Backend:
  """Returns what JAX computes on by default."""
  device = jax.local_devices()[0]
  digits = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
  capability = None if digits is None else tuple(map(int, digits.groups()))
  return Backend(device.platform, capability)


def _device_problems(device: Backend) -> list[str]:
  """Returns why cuDNN's kernel does not run on a device."""
  capability = device.capability
  if device.platform == "gpu" and capability is not None and capability >= _CAPABILITY:
    return []
  suffix = "" if capability is None else f" of {'.'.join(map(str, capability))}"
  return [
    f"needs an NVIDIA GPU of compute capability 8.0 at least, got a {device.platform}{suffix}"
  ]


def _size_problems(model_config: "ModelConfig", sizes: Sequence[int]) -> list[str]:
  """Returns why cuDNN cannot take a model's sizes, or the lengths of a batch.

  Source: what jax/_src/cudnn/fused_attention_stablehlo.py checks. Its forward rule refuses odd
  lengths without a bias too, as it takes the empty array that stands for none for a bias.
  """
  problems = []
  if model_config.dtype != "bfloat16":
    problems.append(f"needs config.model.dtype='bfloat16', got {model_config.dtype!r}")
  if model_config.d_kv % 8 or model_config.d_kv > 128:
    problems.append(f"needs config.model.d_kv a multiple of 8 up to 128, got {model_config.d_kv}")
  if any(size % 2 for size in sizes):
    lengths_text = " and ".join(map(str, sizes))
    problems.append(f"needs even lengths, got {lengths_text}")
  return problems
