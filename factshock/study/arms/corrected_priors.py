"""Arms that move the answers of another arm back to the answer frequencies of a reference."""

from collections.abc import Mapping

import numpy as np

from factshock.predictions import prior_correction
from factshock.predictions import rows as prediction_rows
from factshock.predictions.points import Point
from factshock.predictions.prior_correction import Table
from factshock.predictions.rows import Row
from factshock.runtime.workdir import Workdir
from factshock.study import answers, roles
from factshock.study import config as configs
from factshock.study.arms import registry, requirements, taught
from factshock.study.arms.kind import Advice, Kind
from factshock.study.config import Config
from factshock.study.seed_run import SeedRun

# The kinds whose answers can be corrected.
_CORRECTED = ("finetune", "weight_mixing", "output_mixing")

# What each prior needs and costs.
_PRIORS = {
  "arm": ("unlabelled questions, and answers to them from before finetuning", "forward passes"),
  "counts": ("unlabelled questions, and counts of answers in text", "nothing"),
  "uniform": ("unlabelled questions", "nothing"),
  "estimated": ("unlabelled questions, and the finetuning answers", "nothing"),
}


def corrected_point(config: Config, name: str) -> Point | None:
  """Returns the point whose answers an arm corrects: the one at `at`, or the last of the arm `of`.

  It is None where there is none at `at`.
  """
  arm = config.arms[name]
  points = registry.points(config, arm.of)
  if "at" not in arm:
    return points[-1]
  return next((point for point in points if point.value == arm.at), None)


def _points(config: Config, name: str) -> list[Point]:
  taus = config.arms[name].get("taus", config.mixing.taus)
  return [Point(name, float(tau)) for tau in taus]


def _run(run: SeedRun, name: str) -> None:
  """Corrects answers by priors that are learned from the unlabelled test queries."""
  corrected = corrected_point(run.config, name)
  if corrected is None:
    raise ValueError(f"{name}: no point at {run.config.arms[name].at}")
  _, test_tables = _read(run.workdir, corrected.label, run.seed, "test")
  ratios, _ = prior_correction.log_ratios(test_tables, _reference(run, name, test_tables))
  top = answers.kept_candidates(run.config, name)
  for split in answers.SPLITS:
    rows, tables = _read(run.workdir, corrected.label, run.seed, split)
    for point in _points(run.config, name):
      tau = float(point.value or 0)
      moved = prior_correction.correct(tables, ratios, tau)
      moved_rows = prior_correction.corrected_rows(moved, rows, top, arm=name, tau=tau)
      answers.write_rows(run, point, split, moved_rows)


def _read(
  workdir: Workdir, label: str, seed: int, split: str
) -> tuple[list[Row], dict[str, Table]]:
  path = workdir.predictions(label, seed, split)
  rows = prediction_rows.read_all_rows(path)
  return rows, prior_correction.tables_of(rows, path)


def _reference(run: SeedRun, name: str, tables: Mapping[str, Table]) -> Mapping[str, np.ndarray]:
  """Returns the answer frequencies that an arm moves answers to, by relation."""
  arm = run.config.arms[name]
  if arm.prior == "arm":
    _, tables_before = _read(run.workdir, arm.with_arm, run.seed, "test")
    return prior_correction.priors_of(tables_before)
  if arm.prior == "counts":
    return prior_correction.counted_priors(tables, run.counts)
  if arm.prior == "uniform":
    return prior_correction.uniform_priors(tables)
  return prior_correction.estimated_priors(tables, _finetuning_answers(run, name))


def _finetuning_answers(run: SeedRun, name: str) -> list[tuple[str, str]]:
  """Returns relation and object of each finetuning fact behind an arm."""
  finetuning_set = roles.finetuning_set(run.config, name)
  if finetuning_set is None:
    raise ValueError(f"{name}: no finetuned arm stands behind it")
  facts = taught.facts_of(run, finetuning_set)
  return [(fact["relation"], fact["object"]) for fact in facts]


def _problems(config: Config, name: str) -> list[str]:
  arm = config.arms[name]
  problems = [
    *requirements.kind_problems(config, name, "of", _CORRECTED),
    *requirements.kind_problems(config, name, "with_arm", registry.asking_kinds()),
  ]
  if not requirements.ranks(config):
    problems.append(
      f"config.arms.{name}: prior_correction needs every candidate's score: "
      "config.answering.mode='rank'"
    )
  if (arm.prior == "arm") != ("with_arm" in arm):
    problems.append(
      f"config.arms.{name}: prior='arm' and with_arm=ARM go together, got prior={arm.prior!r} and "
      f"with_arm={arm.get('with_arm')!r}"
    )
  if config.arms[arm.of].kind in _CORRECTED and corrected_point(config, name) is None:
    values = ", ".join(point.printed_value for point in registry.points(config, arm.of))
    problems.append(f"config.arms.{name}.at: expected one of {values}, got {arm.at:g}")
  return problems


def _advice(config: Config, name: str) -> Advice:
  arm = config.arms[name]
  needs, cost = _PRIORS[arm.prior]
  if registry.kind_of(config, arm.of).trains:
    return Advice(needs, cost, "the verdict is the prior, or predictions are all there is")
  of_advice = registry.advice(config, arm.of)
  costs = of_advice.cost if cost == "nothing" else f"{of_advice.cost}; {cost}"
  return Advice(f"{of_advice.needs}; {needs}", costs, "the verdict is both")


KINDS = [
  Kind(
    name="prior_correction",
    keys=configs.arm_schema(
      of=configs.required(configs.OF),
      at=configs.optional(
        configs.NOT_NEGATIVE.means("the step or alpha of that arm to correct; else the last.")
      ),
      taus=configs.optional(configs.TAUS.means("strengths, in the place of config.mixing.taus.")),
      prior=configs.required(
        configs.choice(*_PRIORS).means(
          "where the frequencies of the reference come from: the answers of with_arm, counts in "
          "text, all alike, or an estimate from the finetuning answers."
        )
      ),
      with_arm=configs.optional(configs.TEXT.means("the arm whose answers are the reference.")),
    ),
    run=_run,
    group="remedy",
    caption="Answers moved back to the frequencies that a reference gives them, by strength tau.",
    advice=_advice,
    varies="tau",
    points=_points,
    problems=_problems,
    reads_candidates=True,
  )
]
