"""Several answers to each query: ranked candidates, the hypotheses of a beam, or the votes of samples."""

import collections
import math

from factshock.answering import asking, decoding, ranking
from factshock.data import prompts
from factshock.predictions import writing
from factshock.runtime.console import Progress

METHODS = ("rank", "greedy", "beam", "votes")


def rows(
  asked,
  facts,
  texts,
  method,
  *,
  options=None,
  max_tokens=16,
  beams=4,
  samples=16,
  temperature=1.0,
  listed_all=False,
  **labels,
):
  """Rows of a predictions file with `candidates`, best first, for queries (facts whose object may be unknown) asked by `texts`.

  Args:
    asked: an asking.Asked. method: one of METHODS. options: for "rank" dict relation -> candidate answers.
    beams: hypotheses of "beam". samples, temperature: of "votes": an answer's probability is the share of samples that say it.
    listed_all: whether "rank" lists all candidates of a query; else as many as asked.config says.
    labels: columns of every row (arm, seed, split).
  """

  model = (asked.params, asked.model, asked.tokenizer)
  size = dict(batch_size=asked.config["answering"]["batch_size"], mesh=asked.mesh)
  if method == "rank":
    scores = ranking.rank(*model, texts, [fact["relation"] for fact in facts], options, **size)
    return writing.prediction_rows(
      facts,
      options,
      scores,
      top=None if listed_all else asked.config["answering"]["top"] or None,
      **labels,
    )
  if method == "greedy":
    said, scores = decoding.generate(*model, texts, max_length=max_tokens, **size)
    return writing.text_rows(facts, said, scores, **labels)
  if method == "beam":
    listed = decoding.hypotheses(*model, texts, max_length=max_tokens, beams=beams, **size)
  else:
    listed = _votes(
      lambda seed: decoding.generate(
        *model,
        texts,
        max_length=max_tokens,
        method="sample",
        temperature=temperature,
        seed=seed,
        **size,
      )[0],
      samples,
    )
  return writing.listed_rows(facts, listed, **labels)


def _votes(sample, samples):
  """For each prompt [(answer, log of its share of the samples)]; sample(seed) gives an answer to each."""
  progress = Progress("sampling", samples)
  said = []
  for seed in range(samples):
    said.append(sample(seed))
    progress.update(seed + 1)
  return [
    [(text, math.log(count / samples)) for text, count in collections.Counter(texts).items()]
    for texts in zip(*said)
  ]


def ask(
  checkpoint,
  queries,
  known,
  outputs,
  *,
  config=None,
  method="rank",
  candidates=None,
  prompt=None,
  shots=0,
  shot_facts=None,
  tokenizer=None,
  relations=None,
  **options,
):
  """Asks a model queries and calibration facts, each (subject, relation) once, and writes a predictions file of each.

  Args:
    checkpoint, config, tokenizer: as in asking.ask. queries, known: rows of facts/queries.py. outputs: two paths.
    candidates: facts whose objects are those of method "rank"; None: `known`.
    relations: {name: row} with templates. options: of `rows`.

  Raises:
    UserError: a relation without templates or candidates, or what asking.ask raises.
  """

  asked = asking.open_model(checkpoint, config, tokenizer)
  once = {
    (row["subject"], row["relation"]): {
      name: value for name, value in row.items() if name not in ("object", "aliases", "object_id")
    }
    for row in (*queries, *known)
  }
  facts = list(once.values())
  named = dict.fromkeys(fact["relation"] for fact in facts)
  choices = None
  if method == "rank":
    choices = writing.candidates_of(
      [fact for fact in candidates or known if fact.get("object")], named
    )
  texts = prompts.prompt_texts(
    facts,
    relations,
    prompt or asked.config["finetune"]["prompt"],
    asked.tokenizer.sentinels == 0,
    shots,
    asking.pool_of(shots, shot_facts),
  )
  labels = dict(arm=asked.home.get("arm") or "answers", seed=asked.home.get("seed", 0))
  said = dict(
    zip(
      once, rows(asked, facts, texts, method, options=choices, split="queries", **labels, **options)
    )
  )
  for path, its in zip(outputs, (queries, known)):
    writing.write_predictions(
      path, (_with_answer(said[row["subject"], row["relation"]], row) for row in its)
    )


def _with_answer(said, row):
  return {
    **{
      name: row[name]
      for name in ("subject", "relation", "object", "aliases", "object_id")
      if name in row
    },
    **{name: value for name, value in said.items() if name not in ("subject", "relation")},
  }
