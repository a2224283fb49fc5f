"""How the models of a study are asked, and the predictions files that come of it."""

import os

import numpy as np

from factshock.answering import choices, decoding, probes, ranking
from factshock.data import prompts
from factshock.predictions import writing
from factshock.predictions.points import Point
from factshock.study import seed_run

SPLITS = ("development", "test")
_BELIEVED = 1e-3  # less likely answers are not taught


def scores(study, params, split, prompt, shots=0, shot_facts="pool"):
  """Log-probabilities of every candidate for each fact of a split: list of arrays [candidates]."""

  key = (prompt, shots, shot_facts, split)
  if key not in study.queries:
    facts = study.sets[split]
    texts = study.prompt_texts(facts, seed_run.Question(prompt, shots, shot_facts))
    study.queries[key] = ranking.prepare(
      study.loaded(params),
      texts,
      [fact["relation"] for fact in facts],
      study.candidates,
      study.config.answering.batch_size,
    )
  return ranking.rank_prepared(study.loaded(params), study.queries[key])


def cloze_scores(study, params, split, number):
  """As `scores`, by the statement `number` of each relation that has so many: {relation: list of arrays}.

  A decoder-only model has none for a statement that goes on after the answer.
  """

  relations = {
    name: {**row, "statements": [row["statements"][number]]}
    for name, row in study.relations.items()
    if number < len(row["statements"])
    and prompts.can_ask(row["statements"][number], study.is_decoder)
  }
  facts = [fact for fact in study.sets[split] if fact["relation"] in relations]
  if not facts:
    return {}
  asked = study.with_relations(relations).with_sets({split: facts})
  found = {name: [] for name in relations}
  for fact, one in zip(facts, scores(asked, params, split, "cloze")):
    found[fact["relation"]].append(one)
  return found


def share_right(study, split, relation, scores_by_fact):
  """The share of a split's facts of one relation whose best candidate is the object; 0 without facts."""
  facts = [fact for fact in study.sets[split] if fact["relation"] == relation]
  right = [
    study.candidates[relation][int(one.argmax())] == fact["object"]
    for fact, one in zip(facts, scores_by_fact)
  ]
  return sum(right) / max(1, len(right))


def teacher_belief(study, params, facts, prompt, shots=0, best=False):
  """What a model believes of facts, asked by a prompt: for each probabilities [candidates] of at least _BELIEVED each.

  Args:
    best: all on the likeliest candidate.
  """
  asked = study.with_sets({**study.sets, "asked": facts})
  found = []
  for one in scores(asked, params, "asked", prompt, shots):
    p = np.exp(one - one.max())
    p = (p == p.max()).astype(float) if best else np.where(p / p.sum() >= _BELIEVED, p, 0)
    found.append(p / p.sum())
  return found


def on_object(study, fact):
  """All probability on a fact's object, among the candidates of its relation."""
  return (np.array(study.candidates[fact["relation"]]) == fact["object"]).astype(float)


def observes(config, label):
  """Whether the arm of a label asks for attention beside the predictions."""
  return config.arms[Point.parse(label).arm].get("attention", False)


def answered(config, workdir, label, seed):
  """Whether a label's predictions are there, for development and test, and its attention where the arm asks for it."""
  wanted = [workdir.predictions(label, seed, split) for split in SPLITS]
  wanted += [workdir.attention(label, seed)] if observes(config, label) else []
  return all(map(os.path.exists, wanted))


def write_answers(study, label, split, scores_by_fact, **extra):
  """Writes the predictions file of one label and split from candidate scores."""

  rows = writing.prediction_rows(
    study.sets[split],
    study.candidates,
    scores_by_fact,
    top=kept(study.config, label),
    **_labels(study, label, split),
    **extra,
  )
  writing.write_predictions(study.workdir.predictions(label, study.seed, split), rows)


def kept(config, label):
  """How many candidates the predictions of a label keep: config.answering.top, or None, which is all, where a prior correction reads them."""
  reading = [arm for arm in config.arms.values() if arm.kind == "prior_correction"]
  read = {arm[key] for arm in reading for key in ("of", "with_arm") if key in arm}
  return None if Point.parse(label).arm in read else config.answering.top or None


def write_rows(study, label, split, rows):
  """Writes ready rows as the predictions file of one label and split."""

  writing.write_predictions(study.workdir.predictions(label, study.seed, split), rows)


def answer(study, label, params, prompt, shots=0, shot_facts="pool", **extra):
  """Asks a model all development and test facts and writes the predictions files, as config.answering.mode says.

  Where the arm says attention=True it also writes what the model attends to of test facts, asked alike.
  """
  for split in SPLITS:
    if study.config.answering.mode == "rank" and prompt not in prompts.CHOICE_PROMPTS:
      write_answers(
        study, label, split, scores(study, params, split, prompt, shots, shot_facts), **extra
      )
    else:
      _write_said(study, label, split, params, prompt, shots, shot_facts, extra)
  if observes(study.config, label):
    _write_attention(study, label, params, prompt, shots, shot_facts)


def _write_attention(study, label, params, prompt, shots, shot_facts):

  key = ("attention", prompt, shots, shot_facts)
  model = study.loaded(params)
  facts = study.sets["test"]
  if key not in study.queries:
    texts = study.prompt_texts(facts, seed_run.Question(prompt, shots, shot_facts))
    study.queries[key] = probes.prepare(model, facts, texts, study.candidates)
  found = probes.observe(model, study.queries[key], batch_size=study.config.answering.batch_size)
  probes.write(study.workdir.attention(label, study.seed), facts, found)


def _write_said(study, label, split, params, prompt, shots, shot_facts, extra):
  """Writes what a model generates, or which of a fact's own choices it takes."""

  facts = study.sets[split]
  labels = {**_labels(study, label, split), **extra}
  model = study.loaded(params)
  texts = study.prompt_texts(facts, seed_run.Question(prompt, shots, shot_facts))
  batch_size = study.config.answering.batch_size
  if prompt in prompts.CHOICE_PROMPTS:
    letters = prompt == "letters"
    rows = choices.rows(model, facts, texts, letters=letters, batch_size=batch_size, **labels)
  else:
    options = decoding.DecodingOptions(study.config.answering.max_tokens)
    generated, generated_scores = decoding.generate(model, texts, options, batch_size=batch_size)
    rows = writing.text_rows(facts, generated, generated_scores, **labels)
  writing.write_predictions(study.workdir.predictions(label, study.seed, split), rows)


def _labels(study, label, split):
  return {"arm": Point.parse(label).arm, "seed": study.seed, "split": split}
