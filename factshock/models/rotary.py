"""Rotary position embeddings (Su et al. 2021) in the layout of HuggingFace's Llama: halves rotated together."""

import math

import jax.numpy as jnp
import numpy as np


def frequencies(size, theta, scaling=None):
  """Radians a position of each pair of dimensions: numpy float32 [size / 2].

  Args:
    size: head dimension, even. theta: base of the wavelengths.
    scaling: None, or Llama 3's (factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
      wavelengths much longer than the original context are stretched by the factor, short ones kept.
  Source: Llama 3.1's reference code, as in transformers' modeling_rope_utils.
  """
  found = 1.0 / theta ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
  if scaling is None:
    return found.astype(np.float32)
  factor, low, high, original = scaling
  turns = original * found / (2 * math.pi)  # within the original context
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return (found * (kept + (1 - kept) / factor)).astype(np.float32)


def angles(positions_BxS, frequencies_J):
  """(cosines, sines) of each position, float32 [B, S, 1, J]: the same for every head."""
  turned = positions_BxS[..., None].astype(jnp.float32) * frequencies_J[None, None, :]
  return jnp.cos(turned)[:, :, None], jnp.sin(turned)[:, :, None]


def rotate(x_BxSxHxK, cosines, sines):
  """The heads' vectors turned by their positions' angles, in their own dtype."""
  first, second = jnp.split(x_BxSxHxK.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
    [first * cosines - second * sines, second * cosines + first * sines], axis=-1
  )
  return turned.astype(x_BxSxHxK.dtype)
