"""Where the harm begins: the one-layer study over Zipf exponents, sizes of the finetuning set and steps, and over pretraining."""

import functools

import numpy as np

from factshock.theory import conditions, hypotheses, one_layer, training, worlds
from factshock.theory.estimates import along, estimate

HALVES = ("popular", "unpopular")


def diagram(sizes, seeds, pretraining, config, grid, say=lambda done, note: None):
  """Accuracy after finetuning on so many popular and unpopular subjects, for each Zipf exponent, size of set and number of steps.

  Args:
    sizes: of worlds.make. pretraining: dict of steps and learning_rate. config: of conditions.run. grid: dict of `zipf` and `sizes`.
    say: told the number of cells done, and which was the last.
  Returns: list of cells, dict of `zipf`, `size`, `before` (estimate), and lists of estimates along `steps`: `popular`, `unpopular`, `gap`
    (popular less unpopular) and `harm` (before less unpopular); `gap_begins` and `harm_begins`, the first step from which on the interval
    lies above 0, or None.
  """
  cells = []
  for zipf in grid["zipf"]:
    of_zipf = {**sizes, "zipf": zipf}
    w_v = pretrained(
      worlds.make(of_zipf, seeds),
      sizes,
      (pretraining["steps"],),
      pretraining["learning_rate"],
      config["cosine"],
    )
    for size in grid["sizes"]:
      found = conditions.run(worlds.make(of_zipf, seeds, size), at(w_v, 0), config, sets=HALVES)
      cells.append({"zipf": zipf, "size": size, **_cell(found)})
      say(len(cells), f"Zipf exponent {zipf:g}, {size} subjects")
  return cells


def _cell(found):
  before_K = found.untouched["accuracy"][:, 0]
  popular_KxE, unpopular_KxE = (found.after[name]["accuracy"] for name in HALVES)
  cell = {
    "popular": along(popular_KxE),
    "unpopular": along(unpopular_KxE),
    "gap": along(popular_KxE - unpopular_KxE),
    "harm": along(before_K[:, None] - unpopular_KxE),
  }
  return {
    "before": estimate(before_K),
    **cell,
    **{f"{name}_begins": begins(cell[name], found.steps) for name in ("gap", "harm")},
  }


def begins(estimates, steps):
  """The first step from which on the interval of every estimate lies above 0; None where the last one's does not."""
  above = [found["low"] is not None and found["low"] > 0 for found in estimates]
  if not above[-1]:
    return None
  return steps[len(above) - above[::-1].index(False) if False in above else 0]


def by_pretraining(world, sizes, ends, learning_rate, config):
  """What depends on how well facts are stored: a row for each number of pretraining steps.

  Each is a dict of `steps`, of the estimate `salience` (mean over facts), and of what hypotheses.row says.
  """
  w_v = pretrained(world, sizes, ends, learning_rate, config["cosine"])
  rows = []
  for place, steps in enumerate(ends):
    found = conditions.run(
      world,
      at(w_v, place),
      {**config, "steps": config["steps"][-1:]},
      sets=(*HALVES, *conditions.SALIENCE_SETS),
    )
    rows.append(
      {
        "steps": steps,
        "salience": estimate(found.before["salience"].mean(axis=(1, 2))),
        **hypotheses.row(found),
      }
    )
  return rows


def pretrained(world, sizes, ends, learning_rate, cosine):
  """W_V after each of `ends` steps of pretraining, [K, E, ...]. Raises: UserError where the loss is not finite."""
  w_v, losses = training.pretrain(
    world.answers_KxSxR,
    world.counts_KxSxR,
    answers=sizes["answers"] * sizes["relations"],
    ends=tuple(ends),
    learning_rate=learning_rate,
    cosine=cosine,
  )
  training.check_finite(losses, "pretraining", learning_rate)
  return {name: np.asarray(array) for name, array in w_v.items()}


def closed_form(world, answers, exposure, cosine):
  """W_V of one step of gradient descent, [K, ...]; see one_layer.closed_form_values."""
  of_seed = functools.partial(
    one_layer.closed_form_values, answers=answers, exposure=exposure, cosine=cosine
  )
  return {
    name: np.asarray(array)
    for name, array in training.over_seeds(of_seed, world.answers_KxSxR, world.counts_KxSxR).items()
  }


def at(weights, place):
  """The weights [K, ...] at one of the steps they were kept at, of [K, E, ...]."""
  return {name: array[:, place] for name, array in weights.items()}
