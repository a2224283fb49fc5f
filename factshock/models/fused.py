"""Attention by one kernel that writes no scores: cuDNN's, through jax.nn.dot_product_attention; and when it is chosen.

Only rows that train go this way (`hidden` of T5 and Llama); generating and ranking do not.
"""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from factshock.models import products
from factshock.runtime.errors import UserError

ATTENTIONS = ("xla", "cudnn", "auto")


class Backend(NamedTuple):
  """Where JAX computes: its platform, and an NVIDIA GPU's compute capability, as (9, 0), or None."""

  platform: str
  capability: tuple | None = None


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("bias", "lengths"),
  meta_fields=("kernel", "causal", "window"),
)
@dataclasses.dataclass(frozen=True)
class Seen:
  """What queries see, as a kernel takes it: in the place of a bias [B, H, S, T] that holds masks too.

  bias: [1, H, S, T] of positions, or None. lengths: int32 [B], the keys of each row that are no padding, or None for all.
  kernel: the `implementation` of jax.nn.dot_product_attention. window: how many keys back a causal query sees, itself included.
  """

  bias: jax.Array | None
  lengths: jax.Array | None
  kernel: str
  causal: bool = False
  window: int | None = None


def attend(query_BxSxHxK, key_BxTxGxK, value_BxTxGxK, seen):
  """Softmax attention without a scale: [B, S, H, K]; H / G query heads in turn share a key head.

  Queries that are padding see what other queries of their row see, as in attention.attend: no row is left to the kernel's choice.
  """
  rows, length = query_BxSxHxK.shape[:2]
  return jax.nn.dot_product_attention(
    query_BxSxHxK,
    key_BxTxGxK,
    value_BxTxGxK,
    None if seen.bias is None else seen.bias.astype(query_BxSxHxK.dtype),
    scale=1.0,
    is_causal=seen.causal,
    implementation=seen.kernel,
    query_seq_lengths=None if seen.lengths is None else jnp.full(rows, length, jnp.int32),
    key_value_seq_lengths=seen.lengths,
    local_window_size=None
    if seen.window is None or seen.window >= length
    else (seen.window - 1, 0),
  )


def lengths(tokens_BxS):
  """Tokens before the padding 0 at the end of each row: int32 [B]; 1 for a row of padding, as no softmax is of nothing."""
  return jnp.maximum(jnp.sum(tokens_BxS != 0, axis=1, dtype=jnp.int32), 1)


def full(tokens_BxS):
  """Lengths that leave nothing out: int32 [B].

  For a bias without padding: cuDNN's reverse pass gave NaN beside a bias where the last tile of keys was not full, unless
  lengths said where the keys end (github.com/pytorch/pytorch/issues/196678, github.com/NVIDIA/cudnn-frontend/issues/160).
  """
  return jnp.full(tokens_BxS.shape[0], tokens_BxS.shape[1], jnp.int32)


def kernel(config, sizes, *, biased, packed, dropout=0.0):
  """As `choose`, for the device that JAX computes on; None while products are counted (products.counted)."""
  return (
    None
    if products.each_counts_once()
    else choose(config, backend(), sizes, biased=biased, packed=packed, dropout=dropout)
  )


def choose(config, where, sizes, *, biased, packed, dropout=0.0):
  """The kernel that config.attention asks for: "cudnn", or None for matrix products and a softmax.

  Args:
    config: its `attention` ("auto" takes cuDNN where it can), `dtype` and `d_kv` count.
    where: a Backend. sizes: the lengths of queries and keys. biased: there is a position bias, whose gradient is wanted.
    packed: rows hold segments, which lengths cannot tell. dropout: that of attention weights, 0 where it is off.
  Raises:
    UserError: "cudnn" where it cannot; names why.
  """
  if config.attention == "xla":
    return None
  problems = _problems(config, where, sizes, biased, packed, dropout)
  if problems and config.attention == "cudnn":
    raise UserError(
      f"config.model.attention='cudnn': {'; '.join(problems)}; 'auto' takes cuDNN only where it can"
    )
  return None if problems else "cudnn"


def backend():
  """The Backend that JAX computes on by default."""
  device = jax.local_devices()[0]
  digits = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
  return Backend(device.platform, digits and tuple(map(int, digits.groups())))


def _problems(config, where, sizes, biased, packed, dropout):
  """Why cuDNN cannot: what jax/_src/cudnn/fused_attention_stablehlo.py checks, and what our masks ask for."""
  gpu = where.platform == "gpu" and where.capability is not None and where.capability >= (8, 0)
  capability = "" if where.capability is None else f" of {'.'.join(map(str, where.capability))}"
  return [
    words
    for fits, words in (
      (
        gpu,
        f"needs an NVIDIA GPU of compute capability 8.0 at least, got a {where.platform}{capability}",
      ),
      (config.dtype == "bfloat16", f"needs config.model.dtype='bfloat16', got {config.dtype!r}"),
      (
        config.d_kv % 8 == 0 and config.d_kv <= 128,
        f"needs config.model.d_kv a multiple of 8 up to 128, got {config.d_kv}",
      ),
      (
        not biased or all(size % 2 == 0 for size in sizes),
        f"needs even lengths beside a position bias, got {' and '.join(map(str, sizes))}",
      ),
      (not packed, "reads no packed rows; set pack=False"),
      (not dropout, f"drops no attention weights; set config.model.dropout=0.0, got {dropout:g}"),
    )
    if not fits
  ]
