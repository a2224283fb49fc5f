"""Rotary position embeddings (Su et al. 2021) as in HuggingFace's Llama: halves turned together."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(
  size: int, theta: float | None, scaling: Sequence[float] | None = None
) -> np.ndarray:
  """Returns the radians a position of each pair of dimensions: float32 [size / 2].

  Args:
    size: head dimension, even.
    theta: base of the wavelengths; None where positions turn nothing.
    scaling: None; or (factor,), by which every wavelength is stretched; or Llama 3's (factor,
      low_freq_factor, high_freq_factor, original_max_position_embeddings): wavelengths much
      longer than the original context are stretched by the factor, short ones kept.

  Source: Llama 3.1's reference code, as in transformers' modeling_rope_utils.
  """
  if theta is None:
    return np.zeros(size // 2, np.float32)
  exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
  plain = 1.0 / theta**exponents
  if scaling is None:
    return plain.astype(np.float32)
  if len(scaling) == 1:
    return plain.astype(np.float32) / np.float32(scaling[0])
  factor, low, high, original = scaling
  turns = original * plain / (2 * math.pi)  # within the original context
  kept = np.clip((turns - low) / (high - low), 0, 1)
  share = kept + (1 - kept) / factor
  return (plain * share).astype(np.float32)


def angles(positions_BxS: jax.Array, frequencies_J: np.ndarray) -> tuple[jax.Array, jax.Array]:
  """Returns (cosines, sines) of each position, float32 [B, S, 1, J]: the same for every head."""
  wide = positions_BxS[..., None].astype(jnp.float32)
  turned = wide * frequencies_J[None, None, :]
  cosines = jnp.cos(turned)[:, :, None]
  sines = jnp.sin(turned)[:, :, None]
  return cosines, sines


def rotate(x_BxSxHxK: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
  """Returns the heads' vectors turned by their positions' angles, in their own dtype."""
  wide = x_BxSxHxK.astype(jnp.float32)
  first, second = jnp.split(wide, 2, axis=-1)
  turned_first = first * cosines - second * sines
  turned_second = second * cosines + first * sines
  turned = jnp.concatenate([turned_first, turned_second], axis=-1)
  return turned.astype(x_BxSxHxK.dtype)
