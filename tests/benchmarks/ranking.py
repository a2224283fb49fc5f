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

import answering_sides
import answering_tasks
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


@functools.partial(jax.jit, static_argnums=1)
def our_pairs(params, config, first, second):
  family = families.of(config)
  if family.decoder_only:
    hidden = family.hidden(params, config, {"tokens": first})[:, :-1]
    targets, counted = first[:, 1:], second[:, 1:]
  else:
    hidden = family.hidden(params, config, {"inputs": first, "targets": second})
    targets, counted = second, second
  log_p = jax.nn.log_softmax(family.head(params, config, hidden))
  picked = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
  return jnp.where(counted != 0, picked, 0.0).sum(axis=-1)


def our_scores(params, config, first, second, size):
  parts = [slice(begin, begin + size) for begin in range(0, len(first), size)]
  found = [our_pairs(params, config, first[part], second[part]) for part in parts]
  return np.concatenate([np.asarray(part) for part in found])


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
    tokenizer = answering_tasks.Words(32000, 100 if is_t5 else 0)
    names = answering_tasks.candidates(random, 200, 32000)
    prompts = answering_tasks.queries(random, QUERIES.value, PROMPT_TOKENS.value, tokenizer)
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
    rows = answering_tasks.pairs(some, answers, is_t5)
    sides = {
      "pairs, factshock's model": functools.partial(our_scores, params, config),
      "pairs, transformers": functools.partial(answering_sides.scores, model),
    }
    for side, score in sides.items():
      found, seconds_of_pairs = timed(
        lambda: score(*rows, PAIRS.value),
        lambda: score(*(part[: PAIRS.value] for part in rows), PAIRS.value),
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
