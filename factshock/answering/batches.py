"""Prompts as padded batches of few sizes, on one device or shared over a mesh."""

import bisect
import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import numpy as np

from factshock.answering import compiling
from factshock.checkpoints.loading import LoadedModel
from factshock.data import batching, decoder_text, sentinels
from factshock.devices import partitioning
from factshock.models import layers
from factshock.models.model_config import ModelConfig
from factshock.runtime import interruption
from factshock.runtime.errors import UserError
from factshock.runtime.progress import Progress
from factshock.types import Array, Params, Tokenizer

ENDED = -1  # in place of a token, after the end of a generated answer
IN_FLIGHT = 8  # batches that devices are given before the first is waited for
LONGEST = 1024  # tokens of a prompt; a longer one is a mistake in the prompt
PACKED = 128  # tokens of a row that holds several prompts, about
# Of the shapes that are compiled for: the tokens of a prompt, and by how much the parts shrink that
# hold the last of many prompts. A CPU's time goes with rows and tokens. An accelerator's hardly
# does, but each shape takes it seconds to compile.
LENGTHS = {
  "cpu": (*range(4, 32, 4), *range(32, 64, 8), *range(64, 128, 16), *range(128, LONGEST + 1, 64)),
  "other": (16, 32, 64, 128, 256, 512, LONGEST),
}
SHRINK = {"cpu": 4, "other": 16}

T = TypeVar("T")

# Tokens, segments and positions, as `pack` returns them.
Packed: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]

# Puts a batch [B, ...] on the devices of the weights; B may grow by padding.
Spread: TypeAlias = Callable[[np.ndarray], Array]


# Is shown the inputs [B, S] and indices [B] of a batch some batches before it is generated for.
Look: TypeAlias = Callable[[Array, Array], None]


class Generate(Protocol):
  """Generates for one batch, of whose rows only the first `used` count."""

  def __call__(
    self,
    params: Params,
    inputs_BxS: Array,
    indices_B: Array,
    used: np.int32,
    /,
  ) -> tuple[Array, Array]:
    """Returns tokens [B, ..., T] and scores [B, ...] of prompts with these indices."""
    ...


def encode_prompt(
  model: LoadedModel,
  prompt: str,
  longest: int = LONGEST,
) -> list[int]:
  """Returns the token ids of a prompt.

  For a T5 EOS is at the end; for a decoder-only model what its tokenizer adds (BOS) is before it.

  Raises:
    UserError: no token, for a T5 no blank for the answer, or more than `longest` tokens.
  """
  text = sentinels.as_read(prompt)
  shown = text if len(text) <= 80 else text[:77] + "..."
  tokenizer = model.tokenizer
  if model.decoder_only:
    tokens = decoder_text.encode_prompt(tokenizer, prompt)
  else:
    tokens = [*tokenizer.encode(prompt), tokenizer.eos]
  if not tokens:
    raise UserError("prompt '': expected some text, got none")
  if not model.decoder_only and tokenizer.sentinel(0) not in tokens:
    raise UserError(
      f"prompt {shown!r}: expected <extra_id_0> where the answer goes, got none; "
      "add it to the prompt"
    )
  if len(tokens) > longest:
    raise UserError(
      f"prompt {shown!r}: expected at most {longest} tokens, got {len(tokens)}; use fewer shots"
    )
  return tokens


def closing_tokens(
  model: LoadedModel,
  stops: Sequence[str] = (decoder_text.STOP,),
) -> list[int]:
  """Returns the tokens that end an answer, EOS first.

  The others are <extra_id_1>, or for a decoder-only model the stop strings that are a token of
  their own, with or without a space before.
  """
  tokenizer = model.tokenizer
  if not model.decoder_only:
    return [*tokenizer.ends, tokenizer.sentinel(1)]
  texts = tokenizer.token_texts()
  alone = [token for token, text in enumerate(texts) if text.strip(" ") in stops]
  return [*tokenizer.ends, *alone]


def stop_tokens(tokenizer: Tokenizer, stops: Iterable[str]) -> list[int]:
  r"""Returns the ids of all tokens that hold a stop string, as "\n\n" and "\n" hold "\n"."""
  wanted = tuple(stops)
  if not wanted:
    return []
  texts = tokenizer.token_texts()
  return [token for token, text in enumerate(texts) if any(stop in text for stop in wanted)]


def check_length(
  longest: int,
  model_config: ModelConfig,
  more: int,
) -> None:
  """Checks that a prompt of `longest` tokens and `more` fit into the model's positions, if limited.

  Raises:
    UserError: they do not.
  """
  limit = getattr(model_config, "max_length", None)
  if limit is not None and longest + more > limit:
    raise UserError(
      f"prompt: expected at most {limit - more} tokens, as the model reads {limit} and the answer "
      f"takes {more}, got {longest}; use fewer shots"
    )


def check_vocabulary(tokenizer_size: int, model_config: ModelConfig) -> None:
  """Checks that a model has as many tokens as the tokenizer.

  Raises:
    UserError: it has fewer.
  """
  if model_config.vocab_size < tokenizer_size:
    raise UserError(
      f"model: expected at least the tokenizer's {tokenizer_size} tokens, got a vocabulary of "
      f"{model_config.vocab_size}; use the tokenizer the checkpoint was trained with"
    )


def device() -> str:
  """Returns the key of the device at hand in tables of what suits a CPU and what others."""
  return "cpu" if layers.on_cpu() else "other"


def split(items: Sequence[T], size: int) -> list[tuple[tuple[T, ...], int]]:
  """Cuts a list into parts of `size`; the rest into parts of a quarter, a sixteenth ... of it.

  On an accelerator they are a sixteenth, a 256th and so on (SHRINK).

  Returns:
    A list of (part, rows): few sizes, and only the last part has fewer items than rows, so there
    is little padding.
  """
  shrink = SHRINK[device()]
  parts = []
  while items:
    if len(items) < size and size >= 2 * shrink and len(items) <= size // shrink * 3:
      size //= shrink
      continue
    parts.append((tuple(items[:size]), size))
    items = items[size:]
  return parts


def pad(
  tokens: Sequence[Sequence[int]],
  indices: Sequence[int],
  rows: int,
  left: bool = False,
) -> np.ndarray:
  """Returns the token lists at some indices as one array, int32 [rows, S].

  S is from a short list of lengths, above LONGEST a multiple of 256. The rest is 0, as T5 pads;
  with `left` it stands before the tokens and is decoder_text.PAD.
  """
  longest = max(len(tokens[index]) for index in indices)
  if longest <= LONGEST:
    lengths = LENGTHS[device()]
    length = lengths[bisect.bisect_left(lengths, longest)]
  else:
    length = -(-longest // 256) * 256
  inputs_BxS = np.full((rows, length), decoder_text.PAD if left else 0, np.int32)
  for row, index in enumerate(indices):
    start = length - len(tokens[index]) if left else 0
    inputs_BxS[row, start : start + len(tokens[index])] = tokens[index]
  return inputs_BxS


def pack(inputs_BxS: np.ndarray, left: bool = False) -> Packed:
  """Puts several prompts from `pad` into each row, as a family's `start` takes them.

  With `left` the last token of each prompt is left out. L is a multiple of S, so that no more than
  a row is added to the tokens of `inputs_BxS`. R is rounded up, as every number of rows is compiled
  anew.

  Returns:
    The tokens [R, L], their segments [R, L] and positions [B, S], the flat index of each prompt's
    tokens among the R * L.
  """
  filler = decoder_text.PAD if left else 0
  batch, width = inputs_BxS.shape
  whole = max(1, PACKED // width)  # prompts of full width a row
  length = whole * width
  inputs_BxS = inputs_BxS[:, :-1] if left else inputs_BxS
  used_BxS = inputs_BxS != filler
  if not left:
    length_B = batching.lengths_of(inputs_BxS, filler)
    used_BxS = np.arange(width)[None] < length_B[:, None]
  row_B, start_Bx1, segment_B = batching.fit(used_BxS.sum(axis=1)[:, None], (length,))
  most = -(-batch // whole)
  step = max(1, most // 16)
  rows = min(-(-(int(row_B.max()) + 1) // step) * step, most)
  prompts_U, columns_U = np.nonzero(used_BxS)
  shift_B = row_B * length + start_Bx1[:, 0] - used_BxS.argmax(axis=1)
  positions_BxS = np.zeros(inputs_BxS.shape, np.int32)
  positions_BxS[prompts_U, columns_U] = shift_B[prompts_U] + columns_U
  tokens_N = np.full(rows * length, filler, np.int32)
  segments_N = np.zeros(rows * length, np.int32)
  tokens_N[positions_BxS[used_BxS]] = inputs_BxS[used_BxS]
  segments_N[positions_BxS[used_BxS]] = segment_B[prompts_U]
  return tokens_N.reshape(rows, length), segments_N.reshape(rows, length), positions_BxS


def run(
  generate: Generate,
  model: LoadedModel,
  prompts: Sequence[Sequence[int]],
  max_length: int,
  batch_size: int,
  look: Look | None = None,
  first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Generates for prompts in batches of like length, a few at a time on their way.

  Prints how far it is where that takes long.

  Args:
    generate: what runs one batch.
    model: the model whose weights it gets.
    prompts: lists of token ids.
    max_length: tokens generated at most.
    batch_size: prompts at a time.
    look: is shown each batch ahead, so that its programs may be compiled.
    first: the index that the first prompt has to `generate`; the others follow.

  Returns:
    Tokens, int32 [prompts, ..., max_length], ENDED after a row's end, and scores, float32
    [prompts, ...], in the order of the prompts.
  """
  params, spread = place(model)
  order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))

  def spread_batches() -> Iterator[tuple[list[int], Array, Array]]:
    for indices, rows in split(order, batch_size):
      filler = [0] * (rows - len(indices))
      indices_B = spread(first + np.array([*indices, *filler], np.int32))
      yield list(indices), spread(pad(prompts, indices, rows, model.decoder_only)), indices_B

  def look_at(batch: tuple[list[int], Array, Array]) -> None:
    if look is not None:
      look(*batch[1:])

  def results() -> Iterator[tuple[list[int], Any]]:
    for indices, inputs_BxS, indices_B in compiling.looking_ahead(spread_batches(), look_at):
      interruption.raise_if_requested()
      yield indices, generate(params, inputs_BxS, indices_B, np.int32(len(indices)))

  fetched = []
  done = 0
  progress = Progress("generating", len(prompts), compiles=True)
  for indices, (tokens_B, scores_B) in fetched_in_turn(results()):
    fetched.append((indices, tokens_B[: len(indices)], scores_B[: len(indices)]))
    done += len(indices)
    progress.update(done)
  between = fetched[0][2].shape[1:] if fetched else ()
  tokens = np.full((len(prompts), *between, max_length), ENDED, np.int32)
  scores = np.zeros((len(prompts), *between), np.float32)
  for indices, tokens_B, scores_B in fetched:
    tokens[indices] = tokens_B
    scores[indices] = scores_B
  return tokens, scores


def fetched_in_turn(started: Iterable[tuple[T, Any]]) -> Iterator[tuple[T, Any]]:
  """Yields what devices are computing, as NumPy arrays, each with what came beside it.

  Up to IN_FLIGHT are started before the first is waited for.
  """
  waiting: collections.deque[tuple[T, Any]] = collections.deque()
  for item in started:
    waiting.append(item)
    if len(waiting) > IN_FLIGHT:
      beside, arrays = waiting.popleft()
      yield beside, partitioning.fetch(arrays)
  for beside, arrays in waiting:
    interruption.raise_if_requested()
    yield beside, partitioning.fetch(arrays)


def place(model: LoadedModel) -> tuple[Params, Spread]:
  """Puts a model's weights on their devices; returns them and what puts a batch there.

  The weights are as they are computed with (layers.narrowed). Without a mesh all is on the default
  device; else the weights are on the mesh as partitioning's
  rules say and each batch is cut over it, padded to a multiple of the parts. (On one of a single
  device there is nothing to cut.)
  """
  params = layers.bits_on_cpu(layers.narrowed(model.params, model.model_config.dtype))
  mesh = model.mesh
  if mesh is None:
    return jax.device_put(params), lambda batch: batch
  if mesh.size == 1:
    return _off_mesh(params, mesh.devices.flat[0]), lambda batch: batch

  def spread(batch: np.ndarray) -> Array:
    missing = -len(batch) % partitioning.batch_shard_count(mesh)
    padded = np.pad(batch, ((0, missing),) + ((0, 0),) * (batch.ndim - 1))
    return partitioning.shard_batch({"batch": padded}, mesh)["batch"]

  return partitioning.place_params(params, mesh), spread


def _off_mesh(params: Params, device: Any) -> Params:
  """Returns weights that lie on a device as such, not as on a mesh of it; no copy is made.

  To JAX the mesh is of an array's type, and so would be of each program's.
  """

  def bare(leaf: Array) -> Array:
    return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf

  return jax.device_put(jax.tree.map(bare, params), device)
