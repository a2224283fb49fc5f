"""Batches mixed from several sources at an exact ratio; the order is a pure function of (seed, step).

A grain element is a whole batch (its number is the step): grain's own per-example path costs more than
the corruption itself (5.5 ms for 128 examples, measured), so shuffling, mixing and corruption are done
here for all examples of a batch at once; grain gives the prefetching thread, the iterator and its state. The
ratio is still exact by the example: of the first k, each source has given its share of k, rounded.
"""

import dataclasses
import fractions
import functools
import math
from typing import Callable

import grain
import numpy as np

from factshock.data import batching, span_corruption
from factshock.runtime.errors import UserError

_STEPS = 10**12  # more than any run takes
_PLANNED = 2048  # examples by which the shape of packed rows is chosen, or three batches


@dataclasses.dataclass(frozen=True)
class Source:
  """Examples to draw: `prepare(input_length, target_length)` gives `make(rows_B, keys_B)`, which gives
  a dict of `inputs` [B, input_length] and `targets` [B, target_length] (for a decoder-only model of `tokens` and
  `weights` [B, input_length + target_length]). `loss_weight` multiplies the batch's weights: with 0
  the examples are in the batch but teach nothing."""

  name: str
  size: int
  prepare: Callable
  loss_weight: float = 1.0


def qa_source(examples, loss_weight=1.0, name="qa"):
  """A source of ready examples (dicts of `inputs` and `targets`, EOS-ended, unpadded; `weights` of the targets in all or none)."""
  if not examples:
    raise UserError(
      f"source {name!r}: expected at least one example, got none; check the finetuning facts"
    )
  return Source(
    name, len(examples), functools.partial(_prepare_examples, examples, name), loss_weight
  )


def _prepare_examples(examples, name, input_length, target_length):
  """All examples padded into two matrices; the first that does not fit is a UserError."""
  inputs = np.zeros((len(examples), input_length), np.int32)
  targets = np.zeros((len(examples), target_length), np.int32)
  for row, example in enumerate(examples):
    got = len(example["inputs"]), len(example["targets"])
    if got[0] > input_length or got[1] > target_length:
      raise UserError(
        f"source {name!r}, example {row}: expected at most {input_length} input and "
        f"{target_length} target tokens, got {got[0]} and {got[1]}; raise these lengths"
      )
    inputs[row, : got[0]], targets[row, : got[1]] = example["inputs"], example["targets"]
  arrays = {"inputs": inputs, "targets": targets}
  if "weights" in examples[0]:
    arrays["weights"] = np.zeros(targets.shape, np.float32)
    for row, example in enumerate(examples):
      arrays["weights"][row, : len(example["weights"])] = example["weights"]
  return lambda rows_B, keys_B: {name: array[rows_B] for name, array in arrays.items()}


def _fields(inputs_and_targets):
  return dict(zip(("inputs", "targets"), inputs_and_targets))


def span_source(
  corpus,
  tokenizer,
  *,
  noise_density=0.15,
  mean_span_length=3.0,
  roll=False,
  loss_weight=1.0,
  name="corpus",
):
  """A source of span-corrupted sequences of a corpus, masked anew each time; sequences are cut to what fits.

  `roll` lets spans start anywhere, as short sequences need (`span_corruption.noise_spans`).
  """
  if not len(corpus.offsets) > 1:
    raise UserError(
      f"source {name!r}: expected at least one line of text, got none; check the corpus"
    )
  options = {"noise_density": noise_density, "mean_span_length": mean_span_length, "roll": roll}
  return Source(
    name,
    len(corpus.offsets) - 1,
    functools.partial(_prepare_spans, corpus, tokenizer, options, name),
    loss_weight,
  )


def _most_tokens(options, name, input_length, target_length):
  """The most raw tokens whose corrupted form fits; a UserError where not even two do."""
  most = span_corruption.raw_length(input_length, target_length=target_length, **options)
  if most < 2:
    raise UserError(
      f"source {name!r}: expected lengths that hold at least 2 corrupted tokens, got "
      f"input_length {input_length} and target_length {target_length}; raise them"
    )
  return most


def _prepare_spans(corpus, tokenizer, options, name, input_length, target_length):
  """The function that gathers rows of the corpus and corrupts them to the lengths given."""
  most = _most_tokens(options, name, input_length, target_length)
  longest = min(most, int(np.diff(corpus.offsets).max()))
  spans = int(
    span_corruption.noise_counts(longest, options["noise_density"], options["mean_span_length"])[1]
  )
  if spans >= tokenizer.sentinels:
    raise UserError(
      f"source {name!r}: expected fewer noise spans than the tokenizer's {tokenizer.sentinels} "
      f"sentinels, got {spans} in {longest} tokens; lower input_length or add sentinels"
    )

  def make(rows_B, keys_B):
    starts_B = corpus.offsets[rows_B]
    lengths_B = np.minimum(corpus.offsets[rows_B + 1] - starts_B, most)
    return _fields(
      span_corruption.corrupt(
        _gather(corpus.tokens, starts_B, lengths_B),
        lengths_B,
        keys_B,
        **options,
        sentinel0=tokenizer.sentinel(0),
        eos=tokenizer.eos,
        sentinels=tokenizer.sentinels,
        input_length=input_length,
        target_length=target_length,
      )
    )

  return make


def salient_source(
  windows,
  tokenizer,
  *,
  object_share=0.6,
  subject_share=0.1,
  noise_density=0.15,
  mean_span_length=3.0,
  loss_weight=1.0,
  name="salient",
):
  """A source of windows around facts (`corpora.salient_windows`), masked and cropped anew each time.

  The object is masked with probability `object_share`, the subject with `subject_share`, else
  random T5 spans that start anywhere; the context outside the two names is cropped at random on both sides.
  A window whose name or names do not fit the lengths is masked by random spans each time it would have
  been masked by name; how many there are is printed. (Guu et al. 2020, REALM, mask salient spans only.)
  """
  if not 0 <= object_share + subject_share <= 1 or min(object_share, subject_share) < 0:
    raise ValueError(
      f"expected shares that add up to at most 1, got {object_share} and {subject_share}"
    )
  options = {"noise_density": noise_density, "mean_span_length": mean_span_length, "roll": True}
  shares = object_share, subject_share
  prepare = functools.partial(_prepare_salient, windows, tokenizer, options, shares, name)
  return Source(name, len(windows.offsets) - 1, prepare, loss_weight)


def _prepare_salient(windows, tokenizer, options, shares, name, input_length, target_length):
  """The function that crops windows and masks the object, the subject or random spans."""
  # One masked token takes a sentinel and EOS: a token more than there was.
  most = min(input_length - 1, _most_tokens(options, name, input_length, target_length))
  spans_nx2x2 = np.stack([windows.objects, windows.subjects], axis=1).astype(np.int64)
  begin = spans_nx2x2[..., 0].min(axis=1)
  stop = spans_nx2x2[..., 1].max(axis=1)
  size = spans_nx2x2[..., 1] - spans_nx2x2[..., 0]
  # A masked name takes two sentinels and EOS beside its own tokens in the targets.
  fits_nx2 = (stop - begin <= most)[:, None] & (size > 0) & (size + 3 <= target_length)
  _say_misfits(name, fits_nx2, input_length, target_length)
  total = np.diff(windows.offsets)

  def make(rows_B, keys_B):
    random_Bx4 = span_corruption.draw(keys_B, 4, stream=2)
    start, lengths = _crop(begin[rows_B], stop[rows_B], total[rows_B], most, random_Bx4)
    share = random_Bx4[:, 3] / 2.0**64
    kind = np.where(share < shares[0], 0, np.where(share < sum(shares), 1, 2))
    named = (kind < 2) & fits_nx2[rows_B, np.minimum(kind, 1)]
    span_Bx2 = spans_nx2x2[rows_B, np.minimum(kind, 1)] - start[:, None]
    place = np.arange(int(lengths.max()))[None]
    mask = np.where(
      named[:, None],
      (place >= span_Bx2[:, :1]) & (place < span_Bx2[:, 1:]),
      span_corruption.noise_mask(lengths, keys_B, **options, width=place.shape[1]),
    )
    return _fields(
      span_corruption.apply_mask(
        _gather(windows.tokens, windows.offsets[rows_B] + start, lengths),
        lengths,
        mask,
        sentinel0=tokenizer.sentinel(0),
        eos=tokenizer.eos,
        sentinels=tokenizer.sentinels,
        input_length=input_length,
        target_length=target_length,
      )
    )

  return make


def _say_misfits(name, fits_nx2, input_length, target_length):
  """Prints how many windows have a name that cannot be masked at these lengths, if there are any."""
  misfits = (~fits_nx2).sum(axis=0)
  if misfits.any():
    print(
      f"  source {name}: {misfits[0]} objects and {misfits[1]} subjects of {len(fits_nx2)} windows do "
      f"not fit lengths {input_length} and {target_length}: random spans are masked instead",
      flush=True,
    )


def _crop(begin_B, stop_B, total_B, most, random_Bx4):
  """(start_B, length_B) of a random part of each window, at most `most` tokens, with [begin, stop) inside.

  Where [begin, stop) is longer than `most`, any part of that length.
  """
  wide = stop_B - begin_B > most
  begin_B = np.where(wide, total_B - most, begin_B)
  stop_B = np.where(wide, total_B, stop_B)
  start = span_corruption.scale(random_Bx4[:, 0], begin_B + 1)
  end = stop_B + span_corruption.scale(random_Bx4[:, 1], total_B - stop_B + 1)
  excess = np.maximum(end - start - most, 0)
  least = np.minimum(np.maximum(excess - (end - stop_B), 0), begin_B - start)
  left = least + span_corruption.scale(
    random_Bx4[:, 2], np.minimum(excess, begin_B - start) - least + 1
  )
  left = np.where(wide, 0, left)
  return start + left, np.minimum(end - start - left, most)


def _gather(tokens, starts_B, lengths_B):
  """[B, L] tokens from each start on, L the longest length; beyond a row's length lies what comes next."""
  place = starts_B[:, None] + np.arange(int(lengths_B.max()))[None]
  return tokens[np.minimum(place, len(tokens) - 1)].astype(np.int32)


def whole_ratios(ratios):
  """The ratios as smallest whole numbers: [1, 4] or [.2, .8] -> (1, 4). ValueError unless positive."""
  exact = [fractions.Fraction(str(ratio)).limit_denominator(1000) for ratio in ratios]
  if not exact or min(exact) <= 0:
    raise ValueError(f"expected positive ratios, got {list(ratios)}; leave out a source of ratio 0")
  scale = math.lcm(*(ratio.denominator for ratio in exact))
  whole = [int(ratio * scale) for ratio in exact]
  return tuple(number // math.gcd(*whole) for number in whole)


def select(positions_B, ratios):
  """(source_B, place_B): the source of each position of the mixture, and its place in that one's order.

  Interleaves as grain's `MapDataset.mix` does: of any k positions each source has its share, rounded.
  """
  here = np.asarray(positions_B, np.int64)
  after = np.asarray(positions_B, np.int64) + 1
  source = np.full(here.shape, -1)
  place = np.zeros_like(here)
  rest = sum(ratios)
  for number, ratio in enumerate(ratios):
    next_here = here * (rest - ratio) // rest
    next_after = after * (rest - ratio) // rest
    mine = (source < 0) & (here - next_here != after - next_after)
    source[mine], place[mine] = number, (here - next_here)[mine]
    here = next_here
    after = next_after
    rest = rest - ratio
  return source, place


def permute(places_B, size, key):
  """Row of each place under a random order of `size` rows that is new each pass; O(batch), no table.

  A Feistel network with modular addition over a x b >= `size` numbers, a and b close to the root of `size`,
  walked until below `size` (Black & Rogaway 2002).
  """
  passes, rows = np.divmod(np.asarray(places_B, np.int64), size)
  random_Bx6 = span_corruption.draw(span_corruption.keys(int(key), passes), 6)
  sides = [math.isqrt(size - 1) + 1]
  sides.append(-(-size // sides[0]))

  def walk(rows, random):
    halves = list(np.divmod(rows, sides[1]))
    for number in range(random.shape[1]):
      mine = number % 2
      other = 1 - number % 2
      shift = span_corruption.mix(halves[other].astype(np.uint64) + random[:, number])
      halves[mine] = (halves[mine] + (shift % np.uint64(sides[mine])).astype(np.int64)) % sides[
        mine
      ]
    return halves[0] * sides[1] + halves[1]

  outside = np.arange(len(rows))
  while len(outside):
    rows[outside] = walk(rows[outside], random_Bx6[outside])
    outside = outside[rows[outside] >= size]
  return rows, passes


def make_batch(sources, makers, ratios, batch_size, seed, step, rows_of=np.arange):
  """The batch of one step: what the sources' `make` gives, a row an example, and float32 `weights`.

  Where a source gives no weights, they are 1 on target tokens and 0 on padding; any other field that it does not give is 0.
  Of the batch's rows, those that `rows_of(batch_size)` names are made.
  """
  source_B, place_B = select(step * batch_size + np.arange(batch_size), ratios)
  row_R = rows_of(batch_size)
  batch = {}
  for number, (source, make) in enumerate(zip(sources, makers)):
    if not (source_B == number).any():
      continue
    mine = np.nonzero(source_B[row_R] == number)[0]
    # a source without a row here makes one all the same: its fields must be in the batch of every process
    place_M = place_B[row_R[mine]] if len(mine) else place_B[source_B == number][:1]
    key = span_corruption.keys(seed, [number])[0]
    rows, passes = permute(place_M, source.size, key)
    part = make(rows, span_corruption.keys(int(key), rows + passes * source.size))
    weights = part["weights"] if "weights" in part else part["targets"] != 0
    for name, array in {
      **part,
      "weights": (weights * source.loss_weight).astype(np.float32),
    }.items():
      batch.setdefault(name, np.zeros((len(row_R), *array.shape[1:]), array.dtype))[mine] = array[
        : len(mine)
      ]
  return batch


def _packed(make, row_multiple, rows_of):
  """`make` with packed rows, of the shapes that leave least padding in the first batches."""
  first = make(0)
  shapes = batching.plan_shapes(
    [first, *(make(step) for step in range(1, max(3, min(16, _PLANNED // len(first["weights"])))))],
    row_multiple,
  )

  def packed(step):
    batch = batching.pack_batch(make(step), shapes)
    row_R = rows_of(len(batch["weights"]))
    return {name: array[row_R] for name, array in batch.items()}

  return packed


class Batches:
  """The iterator that `batches` returns: endless, prefetched, and exact to resume."""

  def __init__(self, dataset, identity, start):

    self._identity = identity
    self._iterator = iter(
      dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=3))
    )
    self._iterator.set_state({"next_index": start})

  def __iter__(self):
    return self

  def __next__(self):
    return next(self._iterator)

  def get_state(self):
    """What is needed to go on after the last batch handed out: a dict of ints and strings."""
    return {**self._identity, "step": int(self._iterator.get_state()["next_index"])}

  def set_state(self, state):
    """Goes to where `get_state` was called. UserError where it was called on other data or another order."""
    for name, value in self._identity.items():
      if state.get(name) != value:
        raise UserError(
          f"loader state: expected {name} {value!r}, got {state.get(name)!r}: the checkpoint "
          "is of other data or settings; restore them, or start anew"
        )
    self._iterator.set_state({"next_index": int(state["step"])})


def batches(
  sources,
  ratios,
  *,
  batch_size,
  input_length,
  target_length,
  seed,
  start=0,
  pack_to=0,
  rows_of=np.arange,
):
  """An endless iterator of batches (dicts of numpy arrays), made ahead in a background thread.

  Args:
    sources: list of Source.
    ratios: examples of each, as positive numbers ([1, 4]: four of the second to one of the first).
    batch_size: B. input_length, target_length: S and T of every batch.
    seed: of order and masks. start: the step of the first batch.
    pack_to: 0 for an example a row; else the B examples are packed into rows, longer ones than these where that leaves less
      padding (`batching.plan_shapes`), their number a multiple of this, with `input_segments` and `target_segments`.
    rows_of: function of the number of a batch's rows that gives those to hand out, ascending; all by default. The batch is the
      same whoever has which of its rows. (Packed batches are made whole for it, as the rows hang together.)

  Raises:
    UserError: an example that does not fit the lengths.
    ValueError: ratios that are not positive, or not one a source.
  """

  if len(ratios) != len(sources):
    raise ValueError(f"expected one ratio for each of {len(sources)} sources, got {len(ratios)}")
  ratios = whole_ratios(ratios)
  makers = [source.prepare(input_length, target_length) for source in sources]
  make = functools.partial(make_batch, sources, makers, ratios, batch_size, seed)
  make = _packed(make, pack_to, rows_of) if pack_to else functools.partial(make, rows_of=rows_of)
  identity = {
    "sources": ",".join(f"{source.name}:{source.size}" for source in sources),
    "ratios": ":".join(str(ratio) for ratio in ratios),
    "batch_size": batch_size,
    "seed": seed,
  }
  return Batches(grain.MapDataset.range(_STEPS).map(make), identity, start)
