"""Where the harm begins: over Zipf exponents, sizes of sets, steps, and pretraining."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from factshock.runtime.settings import COUNT, POSITIVE, setting
from factshock.theory import conditions, hypotheses, one_layer, training, worlds
from factshock.theory.conditions import Arrays, Condition, Settings
from factshock.theory.estimates import SeedValues, along, estimate
from factshock.theory.worlds import Sizes, World
from factshock.types import Estimate

HALVES = ("popular", "unpopular")


@dataclasses.dataclass(frozen=True)
class Descent:
  """Settings of gradient descent.

  Attributes:
    steps: how many steps.
    learning_rate: of each step.
  """

  steps: int = setting(COUNT)
  learning_rate: float = setting(POSITIVE)


class Cell(TypedDict):
  """One Zipf exponent and size of the finetuning set; lists are estimates along the steps.

  `gap` is popular less unpopular, `harm` is before less unpopular; `gap_begins` and `harm_begins`
  are the first step from which on the interval lies above 0, or None.
  """

  zipf: float
  size: int
  before: SeedValues
  popular: list[SeedValues]
  unpopular: list[SeedValues]
  gap: list[SeedValues]
  harm: list[SeedValues]
  gap_begins: int | None
  harm_begins: int | None


class StoredRow(hypotheses.Row):
  """Row of what depends on how well facts are stored, after a number of pretraining steps.

  `salience` is the mean over facts.
  """

  steps: int
  salience: SeedValues


def _ignore_progress(done: int, note: str) -> None:
  del done, note


def diagram(
  sizes: Sizes,
  seeds: Sequence[int],
  pretraining: Descent,
  settings: Settings,
  zipf_exponents: Sequence[float],
  set_sizes: Sequence[int],
  report: Callable[[int, str], Any] = _ignore_progress,
) -> list[Cell]:
  """Returns accuracy after finetuning on each half of subjects, by Zipf exponent and size.

  Args:
    sizes: of the world; `zipf` is exchanged.
    seeds: of the worlds.
    pretraining: of W_V.
    settings: of each condition.
    zipf_exponents: of the frequency of subjects.
    set_sizes: numbers of finetuned subjects.
    report: called with the number of cells done, and which was the last.
  """
  cells: list[Cell] = []
  for zipf in zipf_exponents:
    of_zipf = dataclasses.replace(sizes, zipf=zipf)
    world = worlds.make(of_zipf, seeds)
    w_v = pretrained(world, sizes, (pretraining.steps,), pretraining.learning_rate, settings.cosine)
    for size in set_sizes:
      condition = conditions.run(
        worlds.make(of_zipf, seeds, size), at(w_v, 0), settings, sets=HALVES
      )
      cells.append(_cell(zipf, size, condition))
      report(len(cells), f"Zipf exponent {zipf:g}, {size} subjects")
  return cells


def _cell(
  zipf: float,
  size: int,
  condition: Condition,
) -> Cell:
  before_K = condition.untouched["accuracy"][:, 0]
  popular_KxE = condition.after["popular"]["accuracy"]
  unpopular_KxE = condition.after["unpopular"]["accuracy"]
  gap = along(popular_KxE - unpopular_KxE)
  harm = along(before_K[:, None] - unpopular_KxE)
  return {
    "zipf": zipf,
    "size": size,
    "before": estimate(before_K),
    "popular": along(popular_KxE),
    "unpopular": along(unpopular_KxE),
    "gap": gap,
    "harm": harm,
    "gap_begins": begins(gap, condition.steps),
    "harm_begins": begins(harm, condition.steps),
  }


def begins(estimates: Sequence[Estimate], steps: Sequence[int]) -> int | None:
  """Returns the first step from which on the interval of every estimate lies above 0.

  None where the last one's does not.

  Args:
    estimates: at each step.
    steps: rising.
  """
  first = None
  for row, step in zip(estimates, steps):
    if row["low"] is None or row["low"] <= 0:
      first = None
    elif first is None:
      first = step
  return first


def by_pretraining(
  world: World,
  sizes: Sizes,
  ends: Sequence[int],
  learning_rate: float,
  settings: Settings,
) -> list[StoredRow]:
  """Returns what depends on how well facts are stored, a row for each number of pretraining steps.

  Args:
    world: the facts.
    sizes: of the world.
    ends: numbers of steps, rising.
    learning_rate: of pretraining.
    settings: of each condition; it is measured at the last of its steps.
  """
  w_v = pretrained(world, sizes, ends, learning_rate, settings.cosine)
  settings = dataclasses.replace(settings, steps=settings.steps[-1:])
  rows: list[StoredRow] = []
  for index, steps in enumerate(ends):
    condition = conditions.run(
      world, at(w_v, index), settings, sets=(*HALVES, *conditions.SALIENCE_SETS)
    )
    salience_K = condition.before["salience"].mean(axis=(1, 2))
    rows.append(
      {"steps": steps, "salience": estimate(salience_K), **hypotheses.summarise(condition)}
    )
  return rows


def pretrained(
  world: World,
  sizes: Sizes,
  ends: Sequence[int],
  learning_rate: float,
  cosine: float,
) -> Arrays:
  """Returns W_V after each number of steps of pretraining, [K, E, ...].

  Args:
    world: the facts.
    sizes: of the world.
    ends: E numbers of steps, rising.
    learning_rate: of pretraining.
    cosine: between the embeddings of two subjects.

  Raises:
    UserError: the loss is not finite.
  """
  w_v, losses = training.pretrain(
    world.answers_KxSxR,
    world.counts_KxSxR,
    answers=sizes.all_answers,
    ends=tuple(ends),
    learning_rate=learning_rate,
    cosine=cosine,
  )
  training.check_finite(losses, "pretraining", learning_rate)
  return {name: np.asarray(array) for name, array in w_v.items()}


def closed_form(
  world: World,
  answers: int,
  exposure: float,
  cosine: float,
) -> Arrays:
  """Returns W_V of one step of gradient descent, [K, ...]; see one_layer.closed_form_values.

  Args:
    world: the facts.
    answers: A, of all relations.
    exposure: size of the step.
    cosine: between the embeddings of two subjects.
  """
  of_seed = functools.partial(
    one_layer.closed_form_values, answers=answers, exposure=exposure, cosine=cosine
  )
  w_v = training.over_seeds(of_seed, world.answers_KxSxR, world.counts_KxSxR)
  return {name: np.asarray(array) for name, array in w_v.items()}


def at(weights: Mapping[str, np.ndarray], index: int) -> Arrays:
  """Returns the weights [K, ...] at one of the steps they were kept at, of [K, E, ...]."""
  return {name: array[:, index] for name, array in weights.items()}
