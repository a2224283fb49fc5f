"""Asking of a study's models, and the predictions files that come of it."""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from factshock.answering import best_first, choices, decoding, probes, ranking
from factshock.data import prompts
from factshock.predictions import rows as prediction_rows
from factshock.predictions import writing
from factshock.predictions.points import Point
from factshock.runtime import files, processes
from factshock.runtime.workdir import Workdir
from factshock.study.arms import registry
from factshock.study.config import Config
from factshock.study.seed_run import Question, SeedRun, asked_by
from factshock.types import Fact, Params

SPLITS = ("development", "test")
LEAST_TAUGHT = 1e-3  # less likely answers are not taught


def scores(
  run: SeedRun,
  params: Params,
  split: str,
  question: Question,
) -> list[np.ndarray]:
  """Returns the log-probabilities of every candidate for each fact of a split, [candidates]."""
  queries = _queries(run, params, split, question, None)
  return ranking.rank_prepared(run.loaded(params), queries)


def _queries(
  run: SeedRun,
  params: Params,
  split: str,
  question: Question,
  top: int | None,
) -> ranking.Queries:
  """Returns the queries of a split, prepared once; `top` is how many of the best are wanted."""

  def prepare() -> ranking.Queries:
    facts = run.sets[split]
    return ranking.prepare(
      run.loaded(params),
      run.prompt_texts(facts, question),
      [fact["relation"] for fact in facts],
      run.candidates,
      run.config.answering.batch_size,
      run.stops(question.prompt) or (),
      top,
    )

  return run.prepared(("ranking", question, split, top), prepare)


def cloze_shares(
  run: SeedRun,
  params: Params,
  split: str,
  index: int,
) -> dict[str, float]:
  """Returns the share of each relation's facts whose best candidate is the object.

  Facts are asked by one statement of each relation; a relation without facts has the share 0.
  Relations with fewer statements are left out, and of a decoder-only model those whose statement
  goes on after the answer.

  Args:
    run: the seed.
    params: weights of the model.
    split: of the facts.
    index: of the statement.
  """
  relations = {
    name: asked_by(relation, relation["statements"][index])
    for name, relation in run.relations.items()
    if index < len(relation["statements"])
    and prompts.can_ask(relation["statements"][index], run.is_decoder)
  }
  facts = [fact for fact in run.sets[split] if fact["relation"] in relations]
  if not facts:
    return {}
  asked_run = run.with_relations(relations).with_sets({split: facts})
  queries = _queries(asked_run, params, split, Question("cloze"), 1)
  right: dict[str, list[bool]] = {name: [] for name in relations}
  for fact, listed in zip(facts, best_first.list_best(run.loaded(params), queries)):
    answer = run.candidates[fact["relation"]][listed.best]
    right[fact["relation"]].append(answer == fact["object"])
  return {name: sum(of_facts) / max(1, len(of_facts)) for name, of_facts in right.items()}


def teacher_belief(
  run: SeedRun,
  params: Params,
  facts: Sequence[Fact],
  question: Question,
  least: float = LEAST_TAUGHT,
) -> list[np.ndarray]:
  """Returns what a model believes of each fact: probabilities of the candidates, [candidates].

  Those below `least` are set to 0, but for the likeliest, and the rest sum to 1.

  Args:
    run: the seed.
    params: weights of the model.
    facts: of which it is asked.
    question: how it is asked.
    least: a probability.
  """
  asked_run = run.with_sets({**run.sets, "asked": list(facts)})
  beliefs = []
  for scores_C in scores(asked_run, params, "asked", question):
    p_C = np.exp(scores_C - scores_C.max())
    kept_C = (p_C / p_C.sum() >= least) | (p_C == p_C.max())
    p_C = np.where(kept_C, p_C, 0)
    beliefs.append(p_C / p_C.sum())
  return beliefs


def on_likeliest(belief_C: np.ndarray) -> np.ndarray:
  """Returns all probability on the likeliest candidate of a belief, shared where several are."""
  likeliest_C = (belief_C == belief_C.max()).astype(float)
  return likeliest_C / likeliest_C.sum()


def on_object(run: SeedRun, fact: Fact) -> np.ndarray:
  """Returns all probability on a fact's object among its relation's candidates, [candidates]."""
  return (np.array(run.candidates[fact["relation"]]) == fact["object"]).astype(float)


def observes(config: Config, arm: str) -> bool:
  """Returns whether an arm asks for attention beside the predictions."""
  return config.arms[arm].get("attention", False)


def answered(
  config: Config,
  workdir: Workdir,
  point: Point,
  seed: int,
) -> bool:
  """Returns whether a point's predictions are there, and its attention if the arm asks for it."""
  paths = [workdir.predictions(point.label, seed, split) for split in SPLITS]
  if observes(config, point.arm):
    paths.append(workdir.attention(point.label, seed))
  return all(map(os.path.exists, paths))


def write_answers(
  run: SeedRun,
  point: Point,
  split: str,
  scores_by_fact: Sequence[np.ndarray],
  **columns: Any,
) -> None:
  """Writes the predictions file of a point and split from candidate scores.

  Args:
    run: the seed.
    point: what is answered by.
    split: of the facts.
    scores_by_fact: of each fact, [candidates].
    **columns: added to each row, such as step or alpha.
  """
  rows = writing.prediction_rows(
    run.sets[split],
    run.candidates,
    scores_by_fact,
    top=kept_candidates(run.config, point.arm),
    **_origin(run, point, split),
    **columns,
  )
  write_rows(run, point, split, rows)


def kept_candidates(config: Config, arm: str) -> int | None:
  """Returns how many candidates the predictions of an arm keep: config.answering.top, or None.

  None is all of them, as of an arm whose candidates another arm reads (a prior correction).
  """
  for reader, section in config.arms.items():
    is_read = arm in (section.get("of"), section.get("with_arm"))
    if is_read and registry.kind_of(config, reader).reads_candidates:
      return None
  return config.answering.top or None


def reuse(
  run: SeedRun,
  point: Point,
  sources: Iterable[Point],
  **columns: Any,
) -> bool:
  """Writes the answers of a point from those of the same model to the same questions.

  Args:
    run: the seed.
    point: what is to be answered by.
    sources: points whose model and questions are the same; the first that has all is taken.
    **columns: of the rows, in place of the source's step or alpha.

  Returns:
    False where none is there, or none keeps what the point's own answers would; nothing is written.
  """
  found = processes.broadcast(
    lambda: next((source for source in sources if _has_all(run, source, point)), None), "answers"
  )
  if found is None:
    return False
  for split in SPLITS:
    path = run.workdir.predictions(found.label, run.seed, split)
    rows = [_relabelled(row, run, point, columns) for _, row in prediction_rows.read_rows(path)]
    write_rows(run, point, split, rows)
  if observes(run.config, point.arm):
    with files.atomic_write(run.workdir.attention(point.label, run.seed), binary=True) as file:
      file.write(pathlib.Path(run.workdir.attention(found.label, run.seed)).read_bytes())
  return True


def _has_all(run: SeedRun, source: Point, point: Point) -> bool:
  """Returns whether a point's answers are there and keep what another's would."""
  if not answered(run.config, run.workdir, source, run.seed):
    return False
  if observes(run.config, point.arm) and not observes(run.config, source.arm):
    return False
  kept = kept_candidates(run.config, source.arm)
  return kept is None or kept == kept_candidates(run.config, point.arm)


def _relabelled(
  row: Mapping[str, Any],
  run: SeedRun,
  point: Point,
  columns: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns a row as the point itself would have it, columns in the same order."""
  new: dict[str, Any] = {}
  for name, value in row.items():
    if name in ("step", "alpha"):
      continue
    new[name] = value
    if name == "split":
      new |= columns
  new["arm"] = point.arm
  if "candidates" in new:
    new["candidates"] = new["candidates"][: kept_candidates(run.config, point.arm)]
  return new


def write_rows(
  run: SeedRun,
  point: Point,
  split: str,
  rows: Sequence[Mapping[str, Any]],
) -> None:
  """Writes ready rows as the predictions file of a point and split."""
  writing.write_predictions(run.workdir.predictions(point.label, run.seed, split), rows)


def answer(run: SeedRun, point: Point, params: Params, question: Question, **columns: Any) -> None:
  """Asks a model all development and test facts and writes the predictions files.

  It ranks candidates, generates, or takes one of a fact's own choices, as config.answering.mode
  and the prompt say. Where the arm says attention=True it also writes what the model attends to of
  test facts, asked alike.

  Args:
    run: the seed.
    point: what is answered by.
    params: weights of the model.
    question: how it is asked.
    **columns: added to each row, such as step or alpha.
  """
  has_choices = question.prompt in prompts.CHOICE_PROMPTS
  for split in SPLITS:
    if run.config.answering.mode == "rank" and not has_choices:
      queries = _queries(run, params, split, question, kept_candidates(run.config, point.arm))
      labels = {**_origin(run, point, split), **columns}
      rows = best_first.rows_prepared(
        run.loaded(params), queries, run.sets[split], run.candidates, **labels
      )
      write_rows(run, point, split, rows)
    else:
      _write_generated(run, point, split, params, question, columns)
  if observes(run.config, point.arm):
    _write_attention(run, point, params, question)


def _write_attention(
  run: SeedRun,
  point: Point,
  params: Params,
  question: Question,
) -> None:
  model = run.loaded(params)
  facts = run.sets["test"]

  def prepare() -> Any:
    return probes.prepare(model, facts, run.prompt_texts(facts, question), run.candidates)

  queries = run.prepared(("attention", question, "test", None), prepare)
  observed = probes.observe(model, queries, batch_size=run.config.answering.batch_size)
  probes.write(run.workdir.attention(point.label, run.seed), facts, observed)


def _write_generated(
  run: SeedRun,
  point: Point,
  split: str,
  params: Params,
  question: Question,
  columns: Mapping[str, Any],
) -> None:
  """Writes what a model generates, or which of a fact's own choices it takes."""
  facts = run.sets[split]
  columns = {**_origin(run, point, split), **columns}
  model = run.loaded(params)
  texts = run.prompt_texts(facts, question)
  batch_size = run.config.answering.batch_size
  if question.prompt in prompts.CHOICE_PROMPTS:
    letters = question.prompt == "letters"
    scores = choices.of_facts(model, facts, texts, letters=letters, batch_size=batch_size)
    rows = choices.rows(facts, scores, **columns)
  else:
    stops = run.stops(question.prompt)
    options = decoding.DecodingOptions(run.config.answering.max_tokens, stops=stops)
    generated, generated_scores = decoding.generate(model, texts, options, batch_size=batch_size)
    rows = writing.text_rows(facts, generated, generated_scores, **columns)
  write_rows(run, point, split, rows)


def _origin(
  run: SeedRun,
  point: Point,
  split: str,
) -> dict[str, Any]:
  """Returns the columns that say where a row is from."""
  return {"arm": point.arm, "seed": run.seed, "split": split}
