"""The arms of a study: for each kind, the keys its config takes, the points it answers at, and what it runs.

An arm is a dict of the config, say `dict(kind="finetune", facts="balanced", ratio=4.0)`. A kind is one entry of
KINDS; to add a kind, write its `run` and its entry here, and name it in a config.
"""

import json
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

from factshock.checkpoints import interpolation, store, tree_files
from factshock.data import prompts
from factshock.facts import baselines, schema, splits
from factshock.predictions import prior_correction
from factshock.predictions import rows as prediction_rows
from factshock.runtime import files, processes
from factshock.runtime.errors import UserError
from factshock.study import answers, pretraining_text, study_data, training, weights
from factshock.study import config as configs
from factshock.study.finetuning_examples import FinetuningData
from factshock.training.settings import FinetuningConfig

PRETRAINED = "pretrained"


class Kind(NamedTuple):
  """What arms of one kind take, answer at and do."""

  schema: dict  # key -> (check, required), see config.arm_schema
  points: Callable  # (config, name) -> labels of the predictions it writes, in order
  run: Callable  # (study, name): trains and answers what is not there yet
  group: str  # its part in the report, where the arm names none
  varies: str | None  # what its points differ by: "step", "alpha" or nothing


def settings(config: configs.Config, name: str) -> FinetuningConfig:
  """Returns the finetuning settings of an arm: config.finetune with the arm's own values on top."""
  arm = config.arms[name]
  return FinetuningConfig.of({**config.finetune.to_dict(), **arm})


def needs(config, name):
  """The arms that must have run before this one."""
  arm = config.arms[name]
  # Of a teacher the prompt is needed, not the answers; of a best cloze the statements it chose are stored when first asked for.
  return [arm[key] for key in ("of", "with_arm") if key in arm] + list(arm.get("of_arms", ()))


def points(config, name):
  """The labels of an arm's predictions: one, or one a step ("finetune@25") or alpha ("weight_mixing@0.3")."""
  return KINDS[config.arms[name].kind].points(config, name)


def value(label):
  """The number behind the @ of a point's label."""
  return float(label.split("@")[1])


def run(study, name):
  """Runs one arm of one seed; what is already there is kept."""
  KINDS[study.config.arms[name].kind].run(study, name)


def _one_point(config, name):
  return [name]


def _run_prompted(study, name):
  """Asks the pretrained model, or that of the finetuned arm `of`."""
  arm = study.config.arms[name]
  params = _finetuned(study, arm.of) if "of" in arm else weights.pretrained(study)
  answers.answer(study, name, params, arm.prompt, arm.get("shots", 0), arm.get("facts", "pool"))


def _run_best_cloze(study, name):
  """Asks the pretrained model by the statement of each relation that is best on development facts.

  What it gets right is what the model is taken to know (Petroni et al. 2019; Jiang et al. 2020 for choosing the statement).
  """
  answers.answer(_by_best_statements(study), name, weights.pretrained(study), "cloze")


def _by_best_statements(study):
  """The study with each relation's best statement alone; which they are is kept with the run.

  Raises:
    UserError: a relation has no statement that the model can be asked by.
  """
  path = study.workdir.best_statements(study.seed)
  if not processes.broadcast(lambda: os.path.exists(path), "best statements"):
    with files.atomic_write(path) as file:
      json.dump(_best_statements(study), file, indent=1, ensure_ascii=False)
  best = processes.broadcast(
    lambda: json.loads("".join(line for _, line in files.lines(path))), "best statements read"
  )
  relations = {name: {**row, "statements": [best[name]]} for name, row in study.relations.items()}
  return study.with_relations(relations)


def _best_statements(study):
  """{relation: the statement by which most of its development facts are right, the first of equals}."""
  params = weights.pretrained(study)
  best = {}
  for number in range(max(len(row["statements"]) for row in study.relations.values())):
    for relation, scores in answers.cloze_scores(study, params, "development", number).items():
      right = answers.share_right(study, "development", relation, scores)
      if relation not in best or right > best[relation][0]:
        best[relation] = right, study.relations[relation]["statements"][number]
  without = [relation for relation in study.relations if relation not in best]
  if without:
    raise UserError(
      f"relations {', '.join(without)}: no statement ends with [Y], as a decoder-only model needs; add one"
    )
  for relation, (right, statement) in best.items():
    print(
      f"  best cloze: {relation} by {statement!r}, {right:.3f} right on development", flush=True
    )
  return {relation: statement for relation, (_, statement) in best.items()}


def _finetuned(study, name, step=None):
  """The weights of a finetuned arm; where its last checkpoint is found damaged it is set aside and the arm trained again."""

  try:
    return weights.finetuned(study, name, step)
  except tree_files.Damaged as error:
    if step is not None:
      raise
    folder = study.workdir.checkpoints(name, study.seed)
    store.set_aside(folder, store.agreed_latest_step(folder), error)
  _run_finetune(study, name)
  return weights.finetuned(study, name)


def _finetune_points(config, name):
  return [f"{name}@{step}" for step in settings(config, name).eval_steps]


def _run_finetune(study, name):
  """Finetunes on the arm's facts, mixed with `ratio` pretraining examples to each, answering at eval_steps."""

  arm = study.config.arms[name]
  section = settings(study.config, name)
  folder = study.workdir.checkpoints(name, study.seed)
  done = store.agreed_latest_step(folder) or -1
  missing = [label for label in points(study.config, name) if not _answered(study, label)]
  if any(
    value(label) < done for label in missing
  ):  # those of the last checkpoint's own step can be had from it
    print(f"  {name}: answers before step {done} are missing; training again from the start")
    with processes.first_process_first("training again"):
      shutil.rmtree(folder, ignore_errors=not processes.is_first())
  start = (
    weights.random_params(study) if arm.get("start") == "random" else weights.pretrained(study)
  )

  def evaluate(step, params):
    if not _answered(study, f"{name}@{step}"):
      answers.answer(study, f"{name}@{step}", params, section.prompt, step=step)

  facts, belief = _taught(study, arm)
  training.finetune(
    study,
    name,
    FinetuningData(
      facts,
      ratio=arm.get("ratio", 0),
      question_weight=arm.get("question_weight", 1.0),
      text=arm.get("text", "whole"),
      belief=belief,
      adjustment=arm.get("logit_adjustment", 0.0),
      order=arm.get("order", 0),
      fact_weights=splits.answer_weights(facts, study.counts) if arm.get("reweighted") else None,
    ),
    section,
    start,
    evaluate=evaluate,
  )


def _answered(study, label):
  return processes.broadcast(
    lambda: answers.answered(study.config, study.workdir, label, study.seed), "answered"
  )


def _taught(study, arm):
  """(the facts an arm trains on, what is taught of each in the place of its object or None), as its `labels` say.

  "permuted": the objects of other facts of the relation. "soft", "best": what the pretrained model itself believes, asked as the arm
  `teacher` is, all of it or its likeliest answer; of it `gold_share` is the object all the same. (A share g of the object and 1 - g of a
  belief has the gradient of a loss on the object and (1 - g) / g times the divergence from the belief, up to a factor.)
  """
  facts = _facts(study, arm.facts)
  labels = arm.get("labels", "gold")
  if labels == "permuted":
    return splits.permuted_answers(facts, study.seed), None
  if labels == "gold":
    return facts, None
  share = arm.get("gold_share", 0.0)
  belief = _belief(study, facts, arm.teacher, labels == "best")
  return facts, [
    share * answers.on_object(study, fact) + (1 - share) * p for fact, p in zip(facts, belief)
  ]


def _belief(study, facts, teacher, best):
  """What the pretrained model believes of facts, asked as an arm is."""
  asked = study.config.arms[teacher]
  if asked.kind == "best_cloze":
    study = _by_best_statements(study)
  return answers.teacher_belief(
    study,
    weights.pretrained(study),
    facts,
    asked.get("prompt", "cloze"),
    asked.get("shots", 0),
    best,
  )


def _facts(study, name):
  """A finetuning set; those that go by what the model knows are made when they are first asked for, and kept with the run."""
  if name in MODEL_SETS and name not in study.model_sets:
    pool = study.sets["pool"]
    belief = _belief(study, pool, study.config.roles.ceiling, True)
    said = [study.candidates[fact["relation"]][int(p.argmax())] for fact, p in zip(pool, belief)]
    right = [
      answer in (fact["object"], *fact.get("aliases", ())) for fact, answer in zip(pool, said)
    ]
    found = splits.matched(
      *([fact for fact, known in zip(pool, right) if known == wanted] for wanted in (True, False))
    )
    for key, facts in zip(MODEL_SETS, found):
      if not facts:
        raise UserError(
          f"the set {key!r} of seed {study.seed} is empty: the pretrained model knows all of the pool or nothing"
        )
      study.model_sets[key] = facts
      schema.write_facts(study.workdir.fact_set(study.seed, key), facts)
      print("  " + splits.describe(key, facts), flush=True)
  return study.model_sets[name] if name in MODEL_SETS else study.sets[name]


def _alpha_points(config, name):
  return [f"{name}@{alpha:g}" for alpha in config.mixing.alphas]


def _run_weight_mixing(study, name):
  """Interpolates the pretrained weights and those of another arm: (1 - alpha) pretrained + alpha finetuned.

  With a `profile` alpha falls linearly in depth to 0 at the head ("decreasing") or rises from 0 at the embedding ("increasing").
  """

  arm = study.config.arms[name]
  finetuned = _finetuned(study, arm.of)
  pretrained = weights.pretrained(study)
  prompt = settings(study.config, arm.of).prompt
  for alpha in study.config.mixing.alphas:
    params = interpolation.mix_by_profile(
      pretrained, finetuned, alpha, arm.get("profile", "uniform")
    )
    answers.answer(study, f"{name}@{alpha:g}", params, prompt, alpha=alpha)


def _run_soup(study, name):
  """The plain average of the weights of several finetuned arms (Wortsman et al. 2022, "Model soups"), or of kept `steps` of them.

  Step 0 is the pretrained model.
  """

  arm = study.config.arms[name]
  several = [(one, step) for one in arm.of_arms for step in arm.get("steps", (None,))]
  params = interpolation.interpolate(
    [
      weights.pretrained(study) if step == 0 else _finetuned(study, one, step)
      for one, step in several
    ],
    "uniform",
  )
  answers.answer(study, name, params, settings(study.config, arm.of_arms[0]).prompt)


def _run_exchange(study, name):
  """The weights of another arm with some parts (models/weight_groups.py) put back to the pretrained ones, or all but these."""

  arm = study.config.arms[name]
  pair = [weights.pretrained(study), _finetuned(study, arm.of)]
  params = interpolation.exchange(
    *(pair[::-1] if arm.get("only", False) else pair), tuple(arm.parts)
  )
  answers.answer(study, name, params, settings(study.config, arm.of).prompt)


def corrected_point(config, name):
  """The label of the predictions that an arm of kind "prior_correction" corrects: the point `at`, or the last one."""
  arm = config.arms[name]
  labels = points(config, arm.of)
  return (
    labels[-1]
    if "at" not in arm
    else next((label for label in labels if "@" in label and value(label) == arm.at), None)
  )


def _correction_points(config, name):
  return [f"{name}@{tau:g}" for tau in config.arms[name].get("taus", config.mixing.taus)]


def _run_prior_correction(study, name):
  """Moves the answers of another arm back to the answer frequencies of a reference, learned from the unlabelled test queries."""

  def tables(label, split):
    path = study.workdir.predictions(label, study.seed, split)
    rows = prediction_rows.read_all_rows(path)
    return rows, prior_correction.tables_of(rows, path)

  arm = study.config.arms[name]
  label = corrected_point(study.config, name)
  _, test = tables(label, "test")
  reference = {
    "arm": lambda: prior_correction.priors_of(tables(arm.with_arm, "test")[1]),
    "counts": lambda: prior_correction.counted_priors(test, study.counts),
    "uniform": lambda: prior_correction.uniform_priors(test),
    "estimated": lambda: prior_correction.estimated_priors(
      test, [(fact["relation"], fact["object"]) for fact in _trained_on(study, name)]
    ),
  }[arm.prior]()
  ratios, _ = prior_correction.log_ratios(test, reference)
  for split in answers.SPLITS:
    rows, found = tables(label, split)
    for point in points(study.config, name):
      corrected = prior_correction.correct(found, ratios, value(point))
      answers.write_rows(
        study,
        point,
        split,
        prior_correction.corrected_rows(
          corrected, rows, answers.kept(study.config, name), arm=name, tau=value(point)
        ),
      )


def _trained_on(study, name):
  """The finetuning facts behind an arm."""
  arm = study.config.arms[name]
  return _facts(study, arm.facts) if arm.kind == "finetune" else _trained_on(study, arm.of)


def _run_output_mixing(study, name):
  """Interpolates the answer probabilities of a prompted arm and of a finetuned one, each with its own prompt."""

  arm = study.config.arms[name]
  asked = study.config.arms[arm.with_arm]
  finetuned = _finetuned(study, arm.of)
  prompt = settings(study.config, arm.of).prompt
  for split in answers.SPLITS:
    of_pretrained = answers.scores(
      study,
      weights.pretrained(study),
      split,
      asked.prompt,
      asked.get("shots", 0),
      asked.get("facts", "pool"),
    )
    of_finetuned = answers.scores(study, finetuned, split, prompt)
    for alpha in study.config.mixing.alphas:
      mixed = [
        interpolation.mix_probabilities(a, b, alpha) for a, b in zip(of_pretrained, of_finetuned)
      ]
      answers.write_answers(study, f"{name}@{alpha:g}", split, mixed, alpha=alpha)


def _run_majority(study, name):
  """Answers every query with the relation's answers in the order of their frequency in the pool."""
  found = baselines.majority(study.sets["pool"], study.candidates)
  for split in answers.SPLITS:
    answers.write_answers(
      study, name, split, [found[fact["relation"]] for fact in study.sets[split]]
    )


def _run_naive_bayes(study, name):
  """Answers every query from the words of its subject and the facts of the pool."""
  for split in answers.SPLITS:
    answers.write_answers(
      study,
      name,
      split,
      baselines.naive_bayes(study.sets["pool"], study.sets[split], study.candidates),
    )


PROFILES = (
  "uniform",
  "decreasing",
  "increasing",
)  # of alpha in depth, see interpolation.mix_by_profile
MODEL_SETS = (
  "known",
  "unknown",
)  # facts of the pool that the pretrained model, asked as roles.ceiling is, has right or wrong
CORRECTED = (
  "finetune",
  "weight_mixing",
  "output_mixing",
)  # the kinds whose answers a prior correction may move
_SETS = ("pool", *study_data.FINETUNING_SETS)
_FACTS = configs.choice(*_SETS, *MODEL_SETS)
_PROMPT = configs.choice(*prompts.PROMPTS)
_ATTENTION = {
  "attention": configs.optional(configs.FLAG)
}  # of the kinds that ask one model: writes what it attends to

KINDS = {
  "prompted": Kind(
    configs.arm_schema(
      prompt=configs.required(_PROMPT),
      shots=configs.optional(configs.COUNT),
      facts=configs.optional(configs.choice(*_SETS)),
      of=configs.optional(configs.TEXT),
      **_ATTENTION,
    ),
    _one_point,
    _run_prompted,
    "baseline",
    None,
  ),
  "best_cloze": Kind(
    configs.arm_schema(**_ATTENTION), _one_point, _run_best_cloze, "baseline", None
  ),
  "finetune": Kind(
    configs.arm_schema(
      facts=configs.required(_FACTS),
      ratio=configs.optional(configs.NOT_NEGATIVE),
      question_weight=configs.optional(configs.NOT_NEGATIVE),
      start=configs.optional(configs.choice("pretrained", "random")),
      order=configs.optional(configs.WHOLE),
      reweighted=configs.optional(configs.FLAG),
      text=configs.optional(configs.choice(*pretraining_text.KINDS)),
      teacher=configs.optional(configs.TEXT),
      labels=configs.optional(configs.choice("gold", "permuted", "soft", "best")),
      gold_share=configs.optional(configs.SHARE),
      logit_adjustment=configs.optional(configs.NOT_NEGATIVE),
      **configs.finetune_overrides(),
      **_ATTENTION,
    ),
    _finetune_points,
    _run_finetune,
    "finetuning",
    "step",
  ),
  "weight_mixing": Kind(
    configs.arm_schema(
      of=configs.required(configs.TEXT),
      profile=configs.optional(configs.choice(*PROFILES)),
      **_ATTENTION,
    ),
    _alpha_points,
    _run_weight_mixing,
    "remedy",
    "alpha",
  ),
  "soup": Kind(
    configs.arm_schema(
      of_arms=configs.required(configs.TEXTS), steps=configs.optional(configs.STEPS), **_ATTENTION
    ),
    _one_point,
    _run_soup,
    "remedy",
    None,
  ),
  "exchange": Kind(
    configs.arm_schema(
      of=configs.required(configs.TEXT),
      parts=configs.required(configs.PARTS),
      only=configs.optional(configs.FLAG),
      **_ATTENTION,
    ),
    _one_point,
    _run_exchange,
    "remedy",
    None,
  ),
  "prior_correction": Kind(
    configs.arm_schema(
      of=configs.required(configs.TEXT),
      at=configs.optional(configs.NOT_NEGATIVE),
      taus=configs.optional(configs.TAUS),
      prior=configs.required(configs.choice("arm", "counts", "uniform", "estimated")),
      with_arm=configs.optional(configs.TEXT),
    ),
    _correction_points,
    _run_prior_correction,
    "remedy",
    "tau",
  ),
  "output_mixing": Kind(
    configs.arm_schema(of=configs.required(configs.TEXT), with_arm=configs.required(configs.TEXT)),
    _alpha_points,
    _run_output_mixing,
    "remedy",
    "alpha",
  ),
  "majority": Kind(configs.arm_schema(), _one_point, _run_majority, "control", None),
  "naive_bayes": Kind(configs.arm_schema(), _one_point, _run_naive_bayes, "control", None),
}
