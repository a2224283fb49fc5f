"""Ranking 200 candidates of 1 to 6 tokens against scoring each (query, candidate) pair, in one run.

  PYTHONPATH=. python tests/benchmarks/ranking.py [--models=t5,llama] [--queries=1000]
  [--prompt_tokens=20]

The other sides score a pair a row, batched: our own model without prefix sharing, and PyTorch
  transformers. They take
--pair_queries of the queries, as they need long for all; times are a query's. Scores are compared.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import models
import numpy as np
from absl import app, flags

from factshock.answering import batches, ranking
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families

MODELS = flags.DEFINE_list("models", ["t5", "llama"], "of tests/benchmarks/models.py")
QUERIES = flags.DEFINE_integer("queries", 1000, "queries that our side ranks")
PAIR_QUERIES = flags.DEFINE_integer("pair_queries", 4, "queries that the other sides score")
PROMPT_TOKENS = flags.DEFINE_integer(
  "prompt_tokens", 20, "tokens a prompt; 2-shot prompts take about 80"
)
PAIRS = flags.DEFINE_integer("pairs", 64, "pairs a batch of the other sides")


class Words:
  """A tokenizer of words "w17" -> id 17, with the functions that ranking needs; a T5's has
  sentinels at the top.
  """

  def __init__(self, size, sentinels):
    self.size, self.sentinels, self.eos, self.pad = size, sentinels, 1, 0
    self.bos = None if sentinels else 2

  def sentinel(self, n):
    return self.size - 1 - n

  def encode(self, text):
    return [
      self.sentinel(int(word[10:-1])) if word.startswith("<extra_id_") else int(word[1:])
      for word in text.split()
    ]

  def encode_continuation(self, prompt, text):
    return self.encode(text)

  def decode(self, ids):
    return " ".join(f"w{token}" for token in ids)


def candidates(random):
  """200 names of 1 to 6 tokens, none the beginning of another; some share their first words, as
  names do.
  """
  names = set()
  while len(names) < 200:
    length = random.integers(1, 7)
    name = [int(random.integers(40)) + 100 * length, *random.integers(1000, 30000, length - 1)]
    names.add(" ".join(f"w{number}" for number in name))
  return sorted(names)


def pairs_of(prompts, answers, is_t5):
  """Rows of all pairs: for a T5 (inputs, targets), else (tokens, weights); ids 0 pad."""
  longest = max(map(len, answers))
  if is_t5:
    inputs = np.array([prompt for prompt in prompts for _ in answers], np.int32)
    targets = np.array(
      [answer + [0] * (longest - len(answer)) for _ in prompts for answer in answers], np.int32
    )
    return inputs, targets
  rows, counted = [], []
  for prompt in prompts:
    for answer in answers:
      rest = longest - len(answer)
      rows.append(prompt + answer + [0] * rest)
      counted.append([0] * len(prompt) + [1] * len(answer) + [0] * rest)
  return np.array(rows, np.int32), np.array(counted, np.int32)


@functools.partial(jax.jit, static_argnums=1)
def our_pairs(params, config, first, second):
  module = families.of(config)
  if hasattr(config, "encoder_layers"):
    log_p = jax.nn.log_softmax(module.forward(params, config, first, second))
    picked = jnp.take_along_axis(log_p, second[..., None], axis=-1)[..., 0]
    return jnp.where(second != 0, picked, 0.0).sum(axis=-1)
  log_p = jax.nn.log_softmax(module.forward(params, config, first)[:, :-1])
  picked = jnp.take_along_axis(log_p, first[:, 1:, None], axis=-1)[..., 0]
  return jnp.where(second[:, 1:] != 0, picked, 0.0).sum(axis=-1)


def their_pairs(model, is_t5, first, second):
  import torch

  with torch.inference_mode():
    first, second = torch.tensor(first.astype(np.int64)), torch.tensor(second.astype(np.int64))
    if is_t5:
      logits = model(input_ids=first, labels=second).logits
      picked = torch.log_softmax(logits, -1).gather(-1, second[..., None])[..., 0]
      return torch.where(second != 0, picked, 0.0).sum(-1).numpy()
    logits = model(input_ids=first).logits[:, :-1]
    picked = torch.log_softmax(logits, -1).gather(-1, first[:, 1:, None])[..., 0]
    return torch.where(second[:, 1:] != 0, picked, 0.0).sum(-1).numpy()


def in_batches(score, first, second):
  size = PAIRS.value
  return np.concatenate(
    [
      np.asarray(score(first[at : at + size], second[at : at + size]))
      for at in range(0, len(first), size)
    ]
  )


def timed(run, warm):
  warm()
  began = time.perf_counter()
  found = run()
  return found, time.perf_counter() - began


def main(_):
  random = np.random.default_rng(0)
  for name in MODELS.value:
    config, params, model = models.make(name)
    is_t5 = name != "llama"
    tokenizer = Words(32000, 100 if is_t5 else 0)
    names = candidates(random)
    words = PROMPT_TOKENS.value - (2 if is_t5 else 1)  # beside <extra_id_0> and EOS, or BOS
    prompts = [
      " ".join(f"w{n}" for n in random.integers(5, 30000, words)) + " <extra_id_0>" * is_t5
      for _ in range(QUERIES.value)
    ]
    params = jax.device_put(params)
    loaded = LoadedModel(params, config, tokenizer)
    queries = ranking.prepare(loaded, prompts, ["r"] * len(prompts), {"r": names})
    last = dataclasses.replace(queries, batches=queries.batches[-1:])
    ours, seconds = timed(
      lambda: ranking.rank_prepared(loaded, queries),
      lambda: ranking.rank_prepared(loaded, last),
    )
    ours = np.stack(ours)
    nodes = sum(int((trie.distance_MxM.diagonal() == 0).sum()) for trie in queries.tries["r"])
    print(
      f"{name} ({models.count(params):.0f} M parameters, float32, "
      f"{jax.devices()[0].device_kind}): {len(prompts)} queries of "
      f"{PROMPT_TOKENS.value} tokens x {len(names)} candidates, {nodes} contexts\n"
      f"  ranking: {1e3 * seconds / len(prompts):.0f} ms a query, {seconds:.1f} s in all",
      flush=True,
    )
    some = [batches.encode_prompt(loaded, prompt) for prompt in prompts[: PAIR_QUERIES.value]]
    answers = [tokenizer.encode(("<extra_id_0> " if is_t5 else "") + answer) for answer in names]
    rows = pairs_of(some, answers, is_t5)
    sides = {
      "pairs, factshock's model": functools.partial(our_pairs, params, config),
      "pairs, transformers": functools.partial(their_pairs, model, is_t5),
    }
    for side, score in sides.items():
      found, seconds_of_pairs = timed(
        lambda: in_batches(score, *rows), lambda: score(*(part[: PAIRS.value] for part in rows))
      )
      difference = np.abs(found.reshape(len(some), -1) - ours[: len(some)]).max()
      print(
        f"  {side}: {1e3 * seconds_of_pairs / len(some):.0f} ms a query: "
        f"{seconds_of_pairs / len(some) / (seconds / len(prompts)):.1f} times ours; scores "
        f"differ by {difference:.1e} at most",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main)
