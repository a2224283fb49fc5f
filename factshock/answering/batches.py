"""Prompts as padded batches of few sizes, on one device or shared over a mesh."""

import bisect

import jax
import numpy as np

from factshock.data import batching, decoder_text
from factshock.devices import partitioning
from factshock.models import layers
from factshock.runtime import interruption
from factshock.runtime.errors import UserError

ENDED = -1  # in place of a token, after the end of a generated answer
LONGEST = 1024  # tokens of a prompt; a longer one is a mistake in the prompt
PACKED = 64  # tokens of a row that holds several prompts, at least
LENGTHS = (*range(4, 32, 4), *range(32, 64, 8), *range(64, 128, 16), *range(128, LONGEST + 1, 64))


def encode_prompt(tokenizer, prompt, longest=LONGEST):
  """Token ids of a prompt: for a T5 with EOS at the end, for a decoder-only model with BOS, if any, before it.

  Raises:
    UserError: no token, for a T5 no place for the answer, or more than `longest` tokens.
  """
  shown = prompt if len(prompt) <= 80 else prompt[:77] + "..."
  if is_decoder_only(tokenizer):
    tokens = decoder_text.encode_prompt(tokenizer, prompt)
  else:
    tokens = [*tokenizer.encode(prompt), tokenizer.eos]
  if not tokens:
    raise UserError("prompt '': expected some text, got none")
  if not is_decoder_only(tokenizer) and tokenizer.sentinel(0) not in tokens:
    raise UserError(
      f"prompt {shown!r}: expected <extra_id_0> where the answer goes, got none; "
      "add it to the prompt"
    )
  if len(tokens) > longest:
    raise UserError(
      f"prompt {shown!r}: expected at most {longest} tokens, got {len(tokens)}; use fewer shots"
    )
  return tokens


def is_decoder_only(tokenizer):
  """Whether a tokenizer is one of decoder-only models: it has no sentinels."""
  return tokenizer.sentinels == 0


def closing_tokens(tokenizer):
  """Tokens that end an answer, EOS first: then <extra_id_1>, or for a decoder-only model the end of the line."""
  if not is_decoder_only(tokenizer):
    return [tokenizer.eos, tokenizer.sentinel(1)]
  return [tokenizer.eos, *stop_tokens(tokenizer, (decoder_text.STOP,))]


def stop_tokens(tokenizer, stops):
  """Ids of the stop strings that are one token of their own, as "\\n" is of Llama's."""
  last = [tokenizer.encode(stop)[-1:] for stop in stops]
  return [
    ids[0] for ids, stop in zip(last, stops) if ids and tokenizer.decode(ids).strip(" ") == stop
  ]


def check_room(tokens, model_config, more):
  """Raises a UserError where a prompt and `more` tokens are more than the model has positions (if it has a limit)."""
  limit = getattr(model_config, "max_length", None)
  longest = max(map(len, tokens), default=0)
  if limit is not None and longest + more > limit:
    raise UserError(
      f"prompt: expected at most {limit - more} tokens, as the model reads {limit} and the answer takes "
      f"{more}, got {longest}; use fewer shots"
    )


def check_vocabulary(tokenizer_size, model_config):
  """Raises a UserError where the model has fewer tokens than the tokenizer."""
  if model_config.vocab_size < tokenizer_size:
    raise UserError(
      f"model: expected at least the tokenizer's {tokenizer_size} tokens, got a vocabulary of "
      f"{model_config.vocab_size}; use the tokenizer the checkpoint was trained with"
    )


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


def pad(tokens, places, rows, left=False):
  """int32 [rows, S] of the token lists at `places`, S from a short list of lengths, above LONGEST a multiple of 256.

  The rest is 0, as T5 pads; with `left` it stands before the tokens and is decoder_text.PAD.
  """
  longest = max(len(tokens[place]) for place in places)
  length = (
    LENGTHS[bisect.bisect_left(LENGTHS, longest)]
    if longest <= LONGEST
    else -(-longest // 256) * 256
  )
  inputs_BxS = np.full((rows, length), decoder_text.PAD if left else 0, np.int32)
  for row, place in enumerate(places):
    start = length - len(tokens[place]) if left else 0
    inputs_BxS[row, start : start + len(tokens[place])] = tokens[place]
  return inputs_BxS


def packed(inputs_BxS, left=False):
  """Prompts from `pad`, several to a row: numpy (tokens_RxL, segments_RxL, place_BxS), as a family's `start` takes them.

  With `left` the last token of each is left out. R is rounded up, as every number of rows is compiled anew.
  """
  filler = decoder_text.PAD if left else 0
  inputs_BxS = inputs_BxS[:, :-1] if left else inputs_BxS
  used_BxS = inputs_BxS != filler
  length = max(PACKED, inputs_BxS.shape[1])
  row_B, start_Bx1, segment_B = batching.fit(used_BxS.sum(axis=1)[:, None], (length,))
  step = max(1, inputs_BxS.size // length // 16)
  rows = -(-(int(row_B.max()) + 1) // step) * step
  which, column = np.nonzero(used_BxS)
  place_BxS = np.zeros(inputs_BxS.shape, np.int32)
  place_BxS[which, column] = (row_B * length + start_Bx1[:, 0] - used_BxS.argmax(axis=1))[
    which
  ] + column
  tokens_N = np.full(rows * length, filler, np.int32)
  segments_N = np.zeros(rows * length, np.int32)
  tokens_N[place_BxS[used_BxS]], segments_N[place_BxS[used_BxS]] = (
    inputs_BxS[used_BxS],
    segment_B[which],
  )
  return tokens_N.reshape(rows, length), segments_N.reshape(rows, length), place_BxS


def run(function, params, prompts, max_length, batch_size, mesh=None, left=False):
  """Generates for prompts (lists of token ids) in batches of like length, without waiting between them.

  Args:
    function: (params, inputs_BxS, which_B, used) -> (tokens [B, ..., max_length], scores [B, ...]); which_B holds the prompts'
      places, and only the first `used` rows count.
  Returns: (int32 [prompts, ..., max_length], ENDED after a row's end; float32 [prompts, ...]), in the order of the prompts.
  """
  params, spread = placed(params, mesh)
  places = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
  pending = []
  for part, rows in split(places, batch_size):
    interruption.raise_if_requested()
    which_B = spread(np.array([*part, *[0] * (rows - len(part))], np.int32))
    pending.append(
      (
        list(part),
        *function(params, spread(pad(prompts, part, rows, left)), which_B, np.int32(len(part))),
      )
    )
  between = pending[0][2].shape[1:] if pending else ()
  tokens = np.full((len(prompts), *between, max_length), ENDED, np.int32)
  scores = np.zeros((len(prompts), *between), np.float32)
  for part, its_tokens, its_scores in pending:  # only now wait for the devices
    interruption.raise_if_requested()
    its_tokens, its_scores = partitioning.fetch((its_tokens, its_scores))
    tokens[part], scores[part] = its_tokens[: len(part)], its_scores[: len(part)]
  return tokens, scores


def placed(params, mesh):
  """Weights on their devices, and the function that puts a batch [B, ...] there (B may grow by padding).

  Without a mesh all is on the default device; else the weights are on the mesh as partitioning's rules say and each
  batch is cut over it, padded to a multiple of the parts.
  """
  params = layers.bits_on_cpu(params)
  if mesh is None:
    return jax.device_put(params), lambda batch: batch

  def spread(batch):
    missing = -len(batch) % partitioning.batch_shard_count(mesh)
    padded = np.pad(batch, ((0, missing),) + ((0, 0),) * (batch.ndim - 1))
    return partitioning.shard_batch({"batch": padded}, mesh)["batch"]

  return partitioning.place_params(params, mesh), spread
