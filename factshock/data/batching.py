"""Examples of different lengths in one array: padded to few shapes, or packed several to a row."""

import numpy as np

from factshock.console import UserError


def bucket(length):
  """The smallest of 8, 16, 24, 32, 48, 64, 96, 128, ... that holds `length`: few shapes, little padding."""
  size = 8
  while size < length:
    # From 16 on the steps alternate between x 3/2 and x 4/3, so that every other size is a power of two.
    size = 16 if size == 8 else size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size


def pad_batch(examples, input_length=None, target_length=None):
  """A batch of examples: `inputs` [B, S], `targets` [B, T] int32, `weights` [B, T] float32.

  Packed examples also give `input_segments` [B, S] and `target_segments` [B, T] (0 = padding).
  Lengths not given are the `bucket` of the longest example. Weights are 1 on targets, or the examples' own
  `weights`; 0 on padding.

  Raises:
    ValueError: no examples. UserError: an example longer than a length given.
  """
  if not examples:
    raise ValueError("expected at least one example, got none")
  width = {"inputs": input_length or bucket(max(len(example["inputs"]) for example in examples)),
           "targets": target_length or bucket(max(len(example["targets"]) for example in examples))}
  _check_lengths(examples, width["inputs"], width["targets"])
  batch = {name: _pad([example[name] for example in examples], width[name]) for name in ("inputs", "targets")}
  batch["weights"] = (batch["targets"] != 0).astype(np.float32)
  if "weights" in examples[0]:
    batch["weights"] = _pad([example["weights"] for example in examples], width["targets"], np.float32)
  if "input_segments" in examples[0]:
    for name, side in (("input_segments", "inputs"), ("target_segments", "targets")):
      batch[name] = _pad([example[name] for example in examples], width[side])
  return batch


def _pad(rows, width, dtype=np.int32):
  """Rows of different lengths in one array [B, width], zeros behind."""
  padded = np.zeros((len(rows), width), dtype)
  for number, row in enumerate(rows):
    padded[number, :len(row)] = row
  return padded


def _check_lengths(examples, input_length, target_length):
  """A UserError for the first example that does not fit."""
  for number, example in enumerate(examples):
    got = len(example["inputs"]), len(example["targets"])
    if got[0] > input_length or got[1] > target_length:
      raise UserError(f"example {number}: expected at most {input_length} input and {target_length} target "
                      f"tokens, got {got[0]} and {got[1]}; raise the lengths")


def pack(examples, input_length, target_length):
  """Packs examples into rows, each into the first row with room for its inputs and its targets.

  Returns:
    rows: examples with `inputs`, `targets`, their `input_segments` and `target_segments` (1, 2, ... within
      a row), and `weights` where the examples have them. Nothing is cut, dropped or reordered in a row.

  Raises:
    UserError: an example longer than a row.
  """
  _check_lengths(examples, input_length, target_length)
  free = np.zeros((len(examples), 2), np.int64)
  free[:] = input_length, target_length
  rows = []
  for example in examples:
    size = np.asarray([len(example["inputs"]), len(example["targets"])])
    # Among the open rows and one empty row behind them, which always has room.
    row = int(np.argmax((free[:len(rows) + 1] >= size[None]).all(axis=1)))
    free[row] -= size
    if row == len(rows):
      rows.append([])
    rows[row].append(example)
  return [_join(row) for row in rows]


def _join(examples):
  """One packed row of several examples."""
  row = {name: np.concatenate([example[name] for example in examples])
         for name in ("inputs", "targets", "weights") if name in examples[0]}
  for name in ("input", "target"):
    lengths = [len(example[f"{name}s"]) for example in examples]
    row[f"{name}_segments"] = np.repeat(np.arange(1, len(examples) + 1, dtype=np.int32), lengths)
  return row
