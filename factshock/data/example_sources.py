"""Sources of an encoder-decoder's examples.

They are ready ones, span-corrupted text, and windows of text with salient spans masked.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from factshock.data import span_corruption
from factshock.data.corpora import Corpus, SalientWindows
from factshock.data.span_corruption import T5_NOISE, Marks, Noise
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.types import Batch, Example, Tokenizer

# From rows [B] and their uint64 keys [B] to the arrays of the examples, a row each.
Make: TypeAlias = Callable[[np.ndarray, np.ndarray], Batch]
# From input and target length to the function that makes examples of these lengths.
Prepare: TypeAlias = Callable[[int, int], Make]


@dataclasses.dataclass(frozen=True)
class Source:
  """Examples to draw.

  `prepare(input_length, target_length)` gives `make(rows_B, keys_B)`, which gives a dict of
  `inputs` [B, input_length] and `targets` [B, target_length] (for a decoder-only model of `tokens`
  and `weights` [B, input_length + target_length]). `loss_weight` multiplies the batch's weights:
  with 0 the examples are in the batch but teach nothing. `predicted` is the most tokens of a
  decoder-only model's example that the loss counts; 0: as many as there are.
  """

  name: str
  size: int
  prepare: Prepare
  loss_weight: float = 1.0
  predicted: int = 0


def check_not_empty(examples: Sequence[object], name: str) -> None:
  """Raises a UserError that names the source where it has no examples."""
  if not examples:
    raise UserError(
      f"source {name!r}: expected at least one example, got none; check the finetuning facts"
    )


def check_has_text(corpus: Corpus, name: str) -> None:
  """Raises a UserError that names the source where its corpus has no text."""
  if not len(corpus.offsets) > 1:
    raise UserError(
      f"source {name!r}: expected at least one line of text, got none; check the corpus"
    )


def qa_source(
  examples: Sequence[Example],
  loss_weight: float = 1.0,
  name: str = "qa",
) -> Source:
  """Returns a source of ready examples.

  Args:
    examples: `inputs` and `targets`, EOS-ended and unpadded; `weights` of the targets in all or
      none.
    loss_weight: multiplies the weights.
    name: of the source, in errors and the loader's state.
  """
  check_not_empty(examples, name)
  prepare = functools.partial(_prepare_examples, examples, name)
  return Source(name, len(examples), prepare, loss_weight)


def _prepare_examples(
  examples: Sequence[Example],
  name: str,
  input_length: int,
  target_length: int,
) -> Make:
  """Pads all examples into two matrices; the first that does not fit is a UserError."""
  count = len(examples)
  inputs = np.zeros((count, input_length), np.int32)
  targets = np.zeros((count, target_length), np.int32)
  for row, example in enumerate(examples):
    input_size = len(example["inputs"])
    target_size = len(example["targets"])
    if input_size > input_length or target_size > target_length:
      raise UserError(
        f"source {name!r}, example {row}: expected at most {input_length} input and "
        f"{target_length} target tokens, got {input_size} and {target_size}; raise these lengths"
      )
    inputs[row, :input_size] = example["inputs"]
    targets[row, :target_size] = example["targets"]
  arrays: Batch = {"inputs": inputs, "targets": targets}
  if "weights" in examples[0]:
    weights = np.zeros(targets.shape, np.float32)
    for row, example in enumerate(examples):
      size = len(example["weights"])
      weights[row, :size] = example["weights"]
    arrays["weights"] = weights
  return lambda rows_B, keys_B: {field: array[rows_B] for field, array in arrays.items()}


def span_source(
  corpus: Corpus,
  tokenizer: Tokenizer,
  *,
  noise: Noise = T5_NOISE,
  loss_weight: float = 1.0,
  name: str = "corpus",
) -> Source:
  """Returns a source of span-corrupted sequences of a corpus, masked anew each time.

  Args:
    corpus: its sequences are cut to what fits.
    tokenizer: of the corpus.
    noise: what is masked; short sequences need its `roll`.
    loss_weight: multiplies the weights.
    name: of the source.
  """
  check_has_text(corpus, name)
  prepare = functools.partial(_prepare_spans, corpus, tokenizer, noise, name)
  return Source(name, len(corpus.offsets) - 1, prepare, loss_weight)


def _most_tokens(
  noise: Noise,
  name: str,
  input_length: int,
  target_length: int,
) -> int:
  """Returns the most raw tokens whose corrupted form fits; a UserError where not even two do."""
  most = span_corruption.raw_length(input_length, noise, target_length)
  if most < 2:
    raise UserError(
      f"source {name!r}: expected lengths that hold at least 2 corrupted tokens, got "
      f"input_length {input_length} and target_length {target_length}; raise them"
    )
  return most


def _prepare_spans(
  corpus: Corpus,
  tokenizer: Tokenizer,
  noise: Noise,
  name: str,
  input_length: int,
  target_length: int,
) -> Make:
  """Returns the function that gathers rows of the corpus and corrupts them to the lengths."""
  most = _most_tokens(noise, name, input_length, target_length)
  lengths = np.diff(corpus.offsets)
  longest = min(most, int(lengths.max()))
  _, span_count = span_corruption.noise_counts(longest, noise)
  spans = int(span_count)
  if spans >= tokenizer.sentinels:
    raise UserError(
      f"source {name!r}: expected fewer noise spans than the tokenizer's {tokenizer.sentinels} "
      f"sentinels, got {spans} in {longest} tokens; lower input_length or add sentinels"
    )
  marks = Marks.of(tokenizer)

  def make(rows_B: np.ndarray, keys_B: np.ndarray) -> Batch:
    starts_B = corpus.offsets[rows_B]
    ends_B = corpus.offsets[rows_B + 1]
    lengths_B = np.minimum(ends_B - starts_B, most)
    inputs, targets = span_corruption.corrupt(
      _gather(corpus.tokens, starts_B, lengths_B),
      lengths_B,
      keys_B,
      marks,
      noise,
      input_length=input_length,
      target_length=target_length,
    )
    return {"inputs": inputs, "targets": targets}

  return make


@dataclasses.dataclass(frozen=True)
class _Shares:
  """Probabilities that a window's object or its subject is masked."""

  object: float
  subject: float


def salient_source(
  windows: SalientWindows,
  tokenizer: Tokenizer,
  *,
  object_share: float = 0.6,
  subject_share: float = 0.1,
  noise: Noise = T5_NOISE,
  loss_weight: float = 1.0,
  name: str = "salient",
) -> Source:
  """Returns a source of windows around facts, masked and cropped anew each time.

  The object or the subject is masked, or else random T5 spans that start anywhere; the context
  outside the two names is cropped at random on both sides. A window whose name or names do not fit
  the lengths is masked by random spans each time it would have been masked by name; how many there
  are is printed. (Guu et al. 2020, REALM, mask salient spans only.)

  Args:
    windows: of `corpora.salient_windows`.
    tokenizer: of the windows.
    object_share: probability that the object is masked.
    subject_share: probability that the subject is masked.
    noise: of the random spans, which are always rolled.
    loss_weight: multiplies the weights.
    name: of the source.
  """
  if not 0 <= object_share + subject_share <= 1 or min(object_share, subject_share) < 0:
    raise ValueError(
      f"expected shares that add up to at most 1, got {object_share} and {subject_share}"
    )
  noise = dataclasses.replace(noise, roll=True)
  shares = _Shares(object_share, subject_share)
  prepare = functools.partial(_prepare_salient, windows, tokenizer, noise, shares, name)
  return Source(name, len(windows.offsets) - 1, prepare, loss_weight)


def _prepare_salient(
  windows: SalientWindows,
  tokenizer: Tokenizer,
  noise: Noise,
  shares: _Shares,
  name: str,
  input_length: int,
  target_length: int,
) -> Make:
  """Returns the function that crops windows and masks the object, the subject or random spans."""
  # One masked token takes a sentinel and EOS: a token more than there was.
  most = min(input_length - 1, _most_tokens(noise, name, input_length, target_length))
  # Of each window's object (0) and subject (1).
  spans_nx2x2 = np.stack([windows.objects, windows.subjects], axis=1).astype(np.int64)
  masking = _SalientMasking(
    windows=windows,
    spans_nx2x2=spans_nx2x2,
    fits_nx2=_maskable(spans_nx2x2, most, target_length),
    marks=Marks.of(tokenizer),
    noise=noise,
    shares=shares,
    most=most,
    input_length=input_length,
    target_length=target_length,
  )
  _print_misfits(name, masking.fits_nx2, input_length, target_length)
  return masking.make


@dataclasses.dataclass(frozen=True)
class _SalientMasking:
  """Windows to crop to `most` tokens and mask, with the spans of object and subject in each.

  `fits_nx2` says whether each of them can be masked at these lengths.
  """

  windows: SalientWindows
  spans_nx2x2: np.ndarray
  fits_nx2: np.ndarray
  marks: Marks
  noise: Noise
  shares: _Shares
  most: int
  input_length: int
  target_length: int

  def make(self, rows_B: np.ndarray, keys_B: np.ndarray) -> Batch:
    """Returns a batch of the rows, cropped and masked anew."""
    starts_B = self.windows.offsets[rows_B]
    total_B = self.windows.offsets[rows_B + 1] - starts_B
    begin_B, stop_B = _extent(self.spans_nx2x2[rows_B])
    random_Bx4 = span_corruption.draw(keys_B, 4, stream=2)
    start, lengths = _crop(begin_B, stop_B, total_B, self.most, random_Bx4)
    kind_B = _kinds(random_Bx4[:, 3] / 2.0**64, self.shares)
    name_B = np.minimum(kind_B, 1)
    named_B = (kind_B < 2) & self.fits_nx2[rows_B, name_B]
    name_span_Bx2 = self.spans_nx2x2[rows_B, name_B] - start[:, None]
    random_mask = span_corruption.noise_mask(lengths, keys_B, self.noise)
    tokens_BxL = _gather(self.windows.tokens, starts_B + start, lengths)
    inputs, targets = span_corruption.apply_mask(
      tokens_BxL,
      lengths,
      _with_names(random_mask, named_B, name_span_Bx2),
      self.marks,
      input_length=self.input_length,
      target_length=self.target_length,
    )
    return {"inputs": inputs, "targets": targets}


def _extent(spans_nx2x2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first token of each window's two names, and the one after their last."""
  starts_nx2 = spans_nx2x2[..., 0]
  ends_nx2 = spans_nx2x2[..., 1]
  return starts_nx2.min(axis=1), ends_nx2.max(axis=1)


def _with_names(
  random_mask: np.ndarray,
  named_B: np.ndarray,
  name_span_Bx2: np.ndarray,
) -> np.ndarray:
  """Returns masks of the names in the rows that are masked by name, of random spans elsewhere."""
  name_mask = _span_mask(name_span_Bx2, random_mask.shape[1])
  return np.where(named_B[:, None], name_mask, random_mask)


def _maskable(
  spans_nx2x2: np.ndarray,
  most: int,
  target_length: int,
) -> np.ndarray:
  """Returns whether each window's object and subject can be masked at the lengths: bool [n, 2]."""
  begin, stop = _extent(spans_nx2x2)
  size = spans_nx2x2[..., 1] - spans_nx2x2[..., 0]
  # A masked name takes two sentinels and EOS beside its own tokens in the targets.
  window_fits = stop - begin <= most
  target_fits_nx2 = size + 3 <= target_length
  return window_fits[:, None] & (size > 0) & target_fits_nx2


def _span_mask(span_Bx2: np.ndarray, width: int) -> np.ndarray:
  """Returns bool [B, width], True within each row's span."""
  position = np.arange(width)[None]
  return (position >= span_Bx2[:, :1]) & (position < span_Bx2[:, 1:])


def _kinds(random_B: np.ndarray, shares: _Shares) -> np.ndarray:
  """Returns what is masked, from random numbers in [0, 1): 0 object, 1 subject, 2 random spans."""
  not_object = np.where(random_B < shares.object + shares.subject, 1, 2)
  return np.where(random_B < shares.object, 0, not_object)


def _print_misfits(
  name: str,
  fits_nx2: np.ndarray,
  input_length: int,
  target_length: int,
) -> None:
  """Prints how many windows have a name that cannot be masked at these lengths, if any."""
  misfits = (~fits_nx2).sum(axis=0)
  if misfits.any():
    messages.say(
      f"  source {name}: {misfits[0]} objects and {misfits[1]} subjects of {len(fits_nx2)} windows "
      f"do not fit lengths {input_length} and {target_length}: random spans are masked instead"
    )


def _crop(
  begin_B: np.ndarray,
  stop_B: np.ndarray,
  total_B: np.ndarray,
  most: int,
  random_Bx4: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (start_B, length_B) of a random part of each window, at most `most` tokens.

  It holds [begin, stop); where that is longer than `most` it is any part of that length.
  """
  wide = stop_B - begin_B > most
  begin_B = np.where(wide, total_B - most, begin_B)
  stop_B = np.where(wide, total_B, stop_B)
  start = span_corruption.scale(random_Bx4[:, 0], begin_B + 1)
  end = stop_B + span_corruption.scale(random_Bx4[:, 1], total_B - stop_B + 1)
  excess = np.maximum(end - start - most, 0)
  spare_before = begin_B - start
  spare_after = end - stop_B
  least = np.minimum(np.maximum(excess - spare_after, 0), spare_before)
  choices = np.minimum(excess, spare_before) - least + 1
  left = least + span_corruption.scale(random_Bx4[:, 2], choices)
  left = np.where(wide, 0, left)
  return start + left, np.minimum(end - start - left, most)


def _gather(
  tokens: np.ndarray,
  starts_B: np.ndarray,
  lengths_B: np.ndarray,
) -> np.ndarray:
  """Returns tokens [B, L] from each start on, L the longest length.

  Beyond a row's length lies what comes next.
  """
  columns = np.arange(int(lengths_B.max()))
  position = starts_B[:, None] + columns[None]
  inside = np.minimum(position, len(tokens) - 1)
  return tokens[inside].astype(np.int32)
