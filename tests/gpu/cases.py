"""Small models, their weights and batches: what is compared with references in float64.

Weights and batches come from seeded generators of NumPy alone, so that they are the same bits
wherever the references are made and wherever they are compared.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from factshock.models import families
from factshock.models.decoder import PAD, LlamaConfig
from factshock.models.t5 import T5Config
from factshock.types import Params

ROWS = 4
PICKED = 16  # positions of a row whose logits are compared
PROMPT_LENGTHS = (5, 30, 17)  # of four prompts each
GENERATED = 12  # tokens after each prompt
END = 1

# Lengths of a T5's inputs and targets, or of a decoder's tokens.
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
  """Names a model and the shapes of the batches that it reads.

  Attributes:
    name: the model's.
    config: its sizes, float32.
    shapes: of its batches. 64 and 192 leave the last tile of 128 keys half full.
    generates: whether it goes on with prompts too.
  """

  name: str
  config: T5Config | LlamaConfig
  shapes: tuple[Shape, ...]
  generates: bool = True


_SIZES = dict(vocab_size=512, d_model=64, d_ff=128, num_heads=4, d_kv=64)
_T5_SIZES = dict(_SIZES, num_heads=2, encoder_layers=2, decoder_layers=2)
_LLAMA_3 = dict(rope_theta=5e5, rope_scaling=(8.0, 1.0, 4.0, 64), tie_head=True)
_TINY = dict(vocab_size=64, d_model=16, d_ff=24, num_heads=4, d_kv=8)
_CASES = {
  "T5": (
    Case("v1.1", T5Config(**_T5_SIZES), ((256, 256), (64, 192), (192, 64))),
    Case("v1.0", T5Config(**_T5_SIZES, feed_forward="relu", tie_head=True), ((192, 192),), False),
  ),
  "decoder": (
    Case("Llama", LlamaConfig(**_SIZES, num_kv_heads=4, layers=2), ((256,), (64,), (192,))),
    Case("Llama 3", LlamaConfig(**_SIZES, num_kv_heads=2, layers=2, **_LLAMA_3), ((192,),)),
    Case(
      "Mistral",
      LlamaConfig(**_SIZES, num_kv_heads=1, layers=2, sliding_window=50),
      ((192,), (256,)),
    ),
  ),
}
_TINY_CASES = {
  "T5": (Case("v1.1", T5Config(**_TINY, encoder_layers=2, decoder_layers=2), ((16, 24),)),),
  "decoder": (
    Case("Mistral", LlamaConfig(**_TINY, num_kv_heads=2, layers=2, sliding_window=5), ((24,),)),
  ),
}


def cases_of(name: str, tiny: bool) -> tuple[Case, ...]:
  """Returns the cases of "T5" or "decoder"; with tiny few and small ones."""
  return (_TINY_CASES if tiny else _CASES)[name]


def all_cases(tiny: bool) -> Iterator[Case]:
  """Yields the cases of T5 and of decoders."""
  for cases in (_TINY_CASES if tiny else _CASES).values():
    yield from cases


def key_of(case: Case, shape: Shape) -> str:
  """Returns what the names of a batch's references begin with."""
  return f"{case.name} {'x'.join(map(str, shape))}"


def params_of(config: T5Config | LlamaConfig) -> Params:
  """Returns weights of about a trained model's scales, numpy float32.

  The position bias is as large as a trained one's, and norms differ from 1, so that a mistake in
  either shows.
  """
  init = families.of(config).init
  shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: _weight(config, name_of(path), leaf.shape), shapes
  )


def batch_of(
  config: T5Config | LlamaConfig, length: int, rows: int = ROWS, targets: int | None = None
) -> dict[str, np.ndarray]:
  """Returns random rows of different lengths, the first whole, the last all padding.

  Args:
    config: the model's.
    length: of the rows, of a T5's inputs.
    rows: how many.
    targets: the length of a T5's targets; None for `length`.
  """
  random = np.random.default_rng([length, targets or 0])
  if isinstance(config, LlamaConfig):
    tokens, used = _rows(random, config.vocab_size, rows, length)
    return {"tokens": np.where(used, tokens, PAD), "weights": used.astype(np.float32)}
  inputs, read = _rows(random, config.vocab_size, rows, length)
  answers, used = _rows(random, config.vocab_size, rows, targets or length)
  return {
    "inputs": np.where(read, inputs, 0),
    "targets": np.where(used, answers, 0),
    "weights": used.astype(np.float32),
  }


def batch_of_case(case: Case, shape: Shape) -> dict[str, np.ndarray]:
  """Returns a case's batch of a shape."""
  return batch_of(case.config, shape[0], targets=shape[-1])


def packed(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the same examples two to a row, one right after the other, with their segments."""
  sides = {
    "inputs": ("inputs",),
    "targets": ("targets", "weights"),
    "tokens": ("tokens", "weights"),
  }
  found: dict[str, np.ndarray] = {}
  for side, fields in sides.items():
    if side not in batch:
      continue
    pad = PAD if side == "tokens" else 0
    sizes = (batch[side] != pad).sum(axis=1)
    segments = np.zeros((len(sizes) // 2, 2 * batch[side].shape[1]), np.int32)
    for name in fields:
      found[name] = np.full(segments.shape, 0 if name == "weights" else pad, batch[name].dtype)
    for row, size in enumerate(sizes):
      start = sizes[row - 1] if row % 2 else 0
      place = (row // 2, slice(start, start + size))
      segments[place] = 1 + row % 2
      for name in fields:
        found[name][place] = batch[name][row, :size]
    found["segments" if side == "tokens" else f"{side[:-1]}_segments"] = segments
  if "tokens" in found:
    # The first token of a segment follows nothing that it is predicted from.
    opening = np.diff(found["segments"], axis=1, prepend=0) != 0
    found["weights"] = np.where(opening, 0, found["weights"])
  return found


def picked_of(shape: Shape) -> np.ndarray:
  """Returns the positions whose logits are compared, from first to last."""
  return np.linspace(0, shape[-1] - 1, PICKED).astype(np.int32)


def is_compared(batch: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
  """Returns which rows and picked positions hold a token: bool [B, picked]."""
  return batch["weights"][:, picked_of(shape)] > 0


def prompts_of(case: Case) -> list[list[int]]:
  """Returns prompts of different lengths, four of a length one after another."""
  random = np.random.default_rng(3)
  return [
    random.integers(2, case.config.vocab_size, size).tolist()
    for size in PROMPT_LENGTHS
    for _ in range(4)
  ]


def distances(got: Params, expected: Params) -> dict[str, float]:
  """Returns the relative distance of each gradient by name; infinite where one is not finite."""
  found = {}
  paths = jax.tree_util.tree_flatten_with_path(got)[0]
  for (path, leaf), reference in zip(paths, jax.tree.leaves(expected), strict=True):
    found[name_of(path)] = distance(leaf, reference)
  return found


def distance(got: jax.Array | np.ndarray, expected: jax.Array | np.ndarray) -> float:
  """Returns the norm of the difference over the norm expected; infinite where not finite."""
  wide = np.asarray(got, np.float64)
  reference = np.asarray(expected, np.float64)
  if not np.isfinite(wide).all():
    return float("inf")
  return float(np.linalg.norm(wide - reference) / np.linalg.norm(reference))


def _rows(
  random: np.random.Generator, vocab_size: int, rows: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns int32 tokens and which of them are no padding, both [rows, length]."""
  sizes = random.integers(2, length, rows)
  sizes[0] = length
  sizes[-1] = 0
  tokens = random.integers(2, vocab_size, (rows, length)).astype(np.int32)
  return tokens, np.arange(length)[None] < sizes[:, None]


def _weight(config: T5Config | LlamaConfig, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns one weight, uniform: a generator's uniform numbers are the same bits everywhere."""
  random = np.random.default_rng(zlib.crc32(name.encode()))
  unit = np.sqrt(12.0) * (random.random(shape) - 0.5)
  last = name.split("/")[-1]
  if last == "scale":
    return (1 + 0.2 * unit).astype(np.float32)
  scale = shape[-2] ** -0.5  # one over the root of the inputs
  if last == "relative_bias":
    scale = 2.0
  elif last == "head" or (last == "embedding" and isinstance(config, LlamaConfig)):
    scale = config.d_model**-0.5
  elif last == "embedding":
    scale = 1.0
  elif last == "query" and isinstance(config, T5Config):
    scale *= config.d_kv**-0.5  # T5 has no scale in its attention
  return (scale * unit).astype(np.float32)


def name_of(path: tuple[object, ...]) -> str:
  """Returns the name of a leaf of a tree by its path."""
  return jax.tree_util.keystr(path, simple=True, separator="/")
