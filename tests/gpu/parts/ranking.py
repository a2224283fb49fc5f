"""Ranking 200 candidates for 1,000 queries against scoring each pair in a row by transformers.

bfloat16 weights and computation; weights, queries and candidates random. Queries have 20 tokens,
candidates 1 to 6 (and a T5's opening sentinel before them). factshock reads a query once, and each
beginning that candidates share once. transformers scores 400 pairs at a time, of fewer queries, as
it needs long for all, with logits of the candidates' tokens alone; rates are of queries. A repeat
is timed until all scores are on the host; tokenization does not count. FLOPs and bytes are what the
distinct beginnings need, for both sides: a query's tokens once, then each beginning's last token
through the layers and the head.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable

import jax
import numpy as np
from benchmarks import answering_tasks

from factshock.answering import batches, ranking
from factshock.checkpoints.loading import LoadedModel
from factshock.models import families
from factshock.models.decoder import LlamaConfig
from factshock.models.t5 import T5Config
from gpu import answering_work, machine, shapes
from gpu.results import OURS, Speed

TO_TRY = {
  "FLOPs": "products of 8 bits; tries that repeat fewer contexts of one another",
  "bytes": "log-probabilities whose logits are never written",
  "neither": "a trace: the logits of all contexts are written in float32 and read again "
  "(ranking.LOGIT_BYTES), and tries are filled up to 128 contexts",
}
_RELATION = "relation"


@dataclasses.dataclass(frozen=True)
class Task:
  """Says what is ranked: how much by us, and by the peer."""

  queries: int
  query_tokens: int
  candidates: int
  vocabulary: int
  batch_size: int
  peer_queries: int
  pairs: int


_TASK = Task(1000, 20, 200, vocabulary=32000, batch_size=256, peer_queries=32, pairs=400)
_TINY = Task(6, 8, 12, vocabulary=256, batch_size=4, peer_queries=2, pairs=10)


def measure(name: str, side: str, tiny: bool) -> Speed:
  """Returns the speed of ranking the candidates for all queries of a side."""
  config = dataclasses.replace(shapes.config_of(name, tiny), param_dtype="bfloat16")
  task = _TINY if tiny else _TASK
  random = np.random.default_rng(0)
  tokenizer = answering_tasks.Words(task.vocabulary, 100 if isinstance(config, T5Config) else 0)
  names = answering_tasks.candidates(random, task.candidates, task.vocabulary)
  count = task.queries if side == OURS else task.peer_queries
  queries = answering_tasks.queries(random, count, task.query_tokens, tokenizer)
  # Without weights: tokens are asked of it alone.
  asked = LoadedModel({}, config, tokenizer)
  answers = ranking.sequences(asked, _RELATION, {_RELATION: names}, queries[0])
  if side == OURS:
    make = functools.partial(_our_runner, config, tokenizer, queries, names, task)
  else:
    peers = importlib.import_module("gpu.answering_peers")
    prompts = [batches.encode_prompt(asked, query) for query in queries]
    rows = answering_tasks.pairs(prompts, answers, isinstance(config, T5Config))
    make = functools.partial(peers.scorer, config, rows, task.pairs, machine.torch_device(tiny))
  timing = machine.timing(make, side == OURS, repeats=3)
  contexts = answering_work.contexts_of(answers)
  parts = [[task.query_tokens] * rows for rows in _batch_sizes(count, task.batch_size)]
  work = answering_work.ranking(config, parts, contexts)
  return Speed(
    **timing._asdict(),
    shape=f"{count} queries of {task.query_tokens} tokens x {len(names)} candidates, "
    f"{len(contexts)} contexts",
    amount=count,
    unit="queries",
    flops=work.flops,
    bytes=work.bytes,
  )


def _batch_sizes(count: int, size: int) -> list[int]:
  """Returns how many queries each batch has."""
  return [min(size, count - begin) for begin in range(0, count, size)]


def _our_runner(
  config: T5Config | LlamaConfig,
  tokenizer: answering_tasks.Words,
  queries: list[str],
  names: list[str],
  task: Task,
) -> Callable[[], list[np.ndarray]]:
  """Returns a function that ranks the candidates for all queries."""
  params = families.of(config).init(config, jax.random.key(0))
  model = LoadedModel(params, config, tokenizer)
  prepared = ranking.prepare(
    model, queries, [_RELATION] * len(queries), {_RELATION: names}, task.batch_size
  )
  return lambda: ranking.rank_prepared(model, prepared)
