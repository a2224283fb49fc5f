"""cuDNN's attention against XLA's in bfloat16, loss and every gradient; run by test_models_fused.py
where there is a GPU.

Prints a line a model and length. Ends with exit code 1 where a gradient is further than TIMES from
its float32 value than XLA's in bfloat16 is, with 2 where JAX sees no NVIDIA GPU. A length of 192
leaves the last tile of keys half full.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from factshock.models import decoder, families, fused, t5
from factshock.training import train_step

TIMES = 3.0
SIZES = dict(vocab_size=512, d_model=256, d_ff=512, num_heads=4, d_kv=64, dtype="bfloat16")
MODELS = {
  "t5": t5.T5Config(**SIZES, encoder_layers=2, decoder_layers=2),
  "llama": decoder.LlamaConfig(**SIZES, num_kv_heads=4, layers=2),
  "mistral, in groups": decoder.LlamaConfig(**SIZES, num_kv_heads=2, layers=2, sliding_window=50),
  "t5, remat": t5.T5Config(**SIZES, encoder_layers=2, decoder_layers=2, remat="full"),
}


def batch_of(config, length, rows=4):
  """Random rows of different lengths, the first whole; the last of a T5's inputs is all padding,
  with no loss.
  """
  random = np.random.default_rng(length)
  sizes = random.integers(2, length, rows)
  sizes[0] = length
  tokens = random.integers(2, config.vocab_size, (rows, length)).astype(np.int32)
  there = np.arange(length)[None] < sizes[:, None]
  if isinstance(config, decoder.LlamaConfig):
    return {"tokens": np.where(there, tokens, decoder.PAD), "weights": there.astype(np.float32)}
  sizes[-1] = 0
  inputs = np.where(np.arange(length)[None] < sizes[:, None], tokens, 0)
  there[-1] = False
  return {
    "inputs": inputs,
    "targets": np.where(there, tokens[:, ::-1], 0),
    "weights": there.astype(np.float32),
  }


def loss_and_gradients(config, params, batch):
  """(mean loss, gradients) of a batch."""

  def mean(params):
    loss, sums = train_step.loss_fn(params, config, batch)
    return loss / sums["tokens"]

  return jax.jit(jax.value_and_grad(mean))(params)


def distances(got, expected):
  """Relative distance of each gradient, by name; infinite where one is not finite."""

  def of(a, b):
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    return (
      float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
      if bool(jnp.isfinite(a).all())
      else float("inf")
    )

  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): of(a, b)
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(got)[0], jax.tree.leaves(expected))
  }


def main():
  """Compares; returns the exit code."""
  failed = False
  for name, config in MODELS.items():
    params = families.of(config).init(config, jax.random.key(0))
    for length in (64, 192, 256):
      batch = batch_of(config, length)
      kinds = {
        kind: dataclasses.replace(config, **change)
        for kind, change in (
          ("exact", dict(dtype="float32")),
          ("xla", {}),
          ("cudnn", dict(attention="cudnn")),
        )
      }
      with jax.default_matmul_precision("highest"):
        exact = loss_and_gradients(kinds["exact"], params, batch)
      xla, cudnn = (
        distances(loss_and_gradients(kinds[kind], params, batch), exact)
        for kind in ("xla", "cudnn")
      )
      worst = max(cudnn, key=lambda weight: cudnn[weight] / max(xla[weight], 1e-3))
      bad = not cudnn[worst] <= TIMES * max(xla[worst], 1e-3)
      failed |= bad
      print(
        (
          f"{name}, length {length}: farthest {worst}, {cudnn[worst]:.2g} from float32 where XLA "
          f"is {xla[worst]:.2g}"
        )
        + (": TOO FAR" if bad else ""),
        flush=True,
      )
  return int(failed)


if __name__ == "__main__":
  if fused.backend().capability is None:
    print(f"JAX computes on a {fused.backend().platform} here")
    sys.exit(2)
  sys.exit(main())
