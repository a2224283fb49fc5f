"""Prompts as padded batches of few sizes, on one device or shared over a mesh."""

import bisect

import numpy as np

from factshock.console import UserError

LONGEST = 1024  # tokens of a prompt; a longer one is a mistake in the prompt
LENGTHS = (*range(4, 32, 4), *range(32, 64, 8), *range(64, 128, 16), *range(128, LONGEST + 1, 64))


def encode_prompt(tokenizer, prompt, longest=LONGEST):
  """Token ids of a prompt with EOS at the end.

  Raises:
    UserError: no token, no place for the answer, or more than `longest` tokens.
  """
  tokens = [*tokenizer.encode(prompt), tokenizer.eos]
  shown = prompt if len(prompt) <= 80 else prompt[:77] + "..."
  if tokenizer.sentinel(0) not in tokens:
    raise UserError(f"prompt {shown!r}: expected <extra_id_0> where the answer goes, got none; "
                    "add it to the prompt")
  if len(tokens) > longest:
    raise UserError(f"prompt {shown!r}: expected at most {longest} tokens, got {len(tokens)}; "
                    "use fewer shots")
  return tokens


def check_vocabulary(tokenizer_size, model_config):
  """Raises a UserError where the model has fewer tokens than the tokenizer."""
  if model_config.vocab_size < tokenizer_size:
    raise UserError(f"model: expected at least the tokenizer's {tokenizer_size} tokens, got a vocabulary of "
                    f"{model_config.vocab_size}; use the tokenizer the checkpoint was trained with")


def split(places, size):
  """Cuts a list into parts of `size`; the rest into parts of a quarter, a sixteenth ... of it.

  Returns: list of (part, rows): only the last part has fewer places than rows. Few sizes, little padding.
  """
  parts = []
  while places:
    if len(places) < size and size >= 8 and len(places) <= size // 4 * 3:
      size //= 4
      continue
    parts.append((tuple(places[:size]), size))
    places = places[size:]
  return parts


def pad(tokens, places, rows):
  """int32 [rows, S] of the token lists at `places`, S from a short list of lengths; the rest is 0."""
  longest = max(len(tokens[place]) for place in places)
  inputs_BxS = np.zeros((rows, LENGTHS[bisect.bisect_left(LENGTHS, longest)]), np.int32)
  for row, place in enumerate(places):
    inputs_BxS[row, :len(tokens[place])] = tokens[place]
  return inputs_BxS


def placed(params, mesh):
  """Weights on their devices, and the function that puts a batch [B, ...] there (B may grow by padding).

  Without a mesh all is on the default device; else the weights are on every device of the mesh and each
  batch is cut over its axis "data", padded to a multiple of its size.
  """
  import jax
  from factshock.training import partitioning
  if mesh is None:
    return jax.device_put(params), lambda batch: batch

  def spread(batch):
    missing = -len(batch) % mesh.shape["data"]
    padded = np.pad(batch, ((0, missing),) + ((0, 0),) * (batch.ndim - 1))
    return partitioning.shard_batch({"batch": padded}, mesh)["batch"]

  return partitioning.replicate(params, mesh), spread
