"""Stages of the one-layer study, from a config to what theory.json and facts.npz hold."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from factshock.runtime import messages
from factshock.runtime.progress import Progress
from factshock.runtime.settings import seed_list, values_of
from factshock.theory import conditions, hypotheses, one_layer, phases, variants, worlds
from factshock.theory.conditions import Arrays, Condition
from factshock.theory.estimates import CONFIDENCE, along, estimate
from factshock.theory.settings import Config, condition_settings, sizes_of
from factshock.theory.worlds import World

Json: TypeAlias = dict[str, Any]


class Stage(NamedTuple):
  """Stage of the study.

  Attributes:
    title: printed as it begins.
    work: seconds or so on two cores for 20 seeds.
    run: adds its part to the results.
  """

  title: str
  work: int
  run: Callable[[Config, "Results"], None]


@dataclasses.dataclass
class Results:
  """Results of a study so far.

  Attributes:
    theory: what theory.json holds.
    facts: what facts.npz holds: for each seed, subject and relation `answers`, `counts`,
      `salience`, `update` (minus the gradient by the subject's attention logit), and
      `attention/SET` after finetuning on each set (before: 1/2); and `test`, the subjects asked
      about.
  """

  theory: Json
  facts: Arrays


def compute(config: Config) -> Results:
  """Computes the study of a config that settings.check has passed, stage by stage, with an ETA.

  Raises:
    UserError: a loss that is not finite.
  """
  stages = list(_stages(config))
  progress = Progress("theory", sum(stage.work for stage in stages))
  theory: Json = {
    "format": 1,
    "name": config.name,
    "confidence": CONFIDENCE,
    "seeds": seed_list(config.seeds),
  }
  results = Results(theory, {})
  done = 0
  for stage in stages:
    messages.say(stage.title)
    stage.run(config, results)
    done += stage.work
    progress.update(done)
  return results


def _stages(config: Config) -> Iterator[Stage]:
  """Yields the stages that are asked for."""
  yield Stage(
    "pretraining, four finetuning sets and two of salience, with both question tokens",
    25,
    _add_predictions,
  )
  yield Stage("other embeddings, and the closed form", 20, _add_conditions)
  if config.stored:
    yield Stage("by how well facts are stored", 65, _add_stored)
  if config.phases.zipf and config.phases.sizes:
    yield Stage("phase diagram", 90, _add_phases)
  for name in config.variants.names:
    yield Stage(f"variant {name}", 15, functools.partial(_add_variant, name))


def _world(config: Config) -> World:
  return worlds.make(sizes_of(config.world), seed_list(config.seeds))


def _pretrained(
  config: Config,
  world: World,
  cosine: float,
) -> Arrays:
  sizes = sizes_of(config.world)
  ends = (config.pretrain.steps,)
  return phases.at(phases.pretrained(world, sizes, ends, config.pretrain.learning_rate, cosine), 0)


def _add_predictions(config: Config, results: Results) -> None:
  """Adds the predictions of the theory, and what the page shows of their conditions."""
  world = _world(config)
  w_v = _pretrained(config, world, config.cosine)
  settings = condition_settings(config)
  plain = conditions.run(world, w_v, settings)
  question = conditions.run(world, w_v, dataclasses.replace(settings, question=config.question))
  results.facts = {
    "answers": world.answers_KxSxR,
    "counts": world.counts_KxSxR,
    "test": world.test_KxT,
    "salience": plain.before["salience"],
    "update": plain.before["update"],
  }
  for name in plain.after:
    attention_KxSxR = conditions.attention_of_facts(plain, name, config.cosine)
    results.facts[f"attention/{name}"] = attention_KxSxR
  results.theory |= {
    "claims": hypotheses.judge(plain, question),
    "stored_by_popularity": _stored_by_popularity(plain, config),
    "updates": _updates(plain),
    "sets": _sets(plain, config.cosine),
    "question_sets": _sets(question, config.cosine),
    "conditions": [_row("As above", plain), _row("Question token of its own", question)],
  }


def _stored_by_popularity(condition: Condition, config: Config) -> Json:
  """Returns mean count, salience and share right of each tenth of subjects, least popular first.

  And salience by the closed form.
  """
  counts_KxSxR = condition.world.counts_KxSxR
  exposure_KxSxR = (
    config.pretrain.steps
    * config.pretrain.learning_rate
    * counts_KxSxR
    / counts_KxSxR.sum(axis=(1, 2), keepdims=True)
  )
  arrays = {
    "count": counts_KxSxR,
    "salience": condition.before["salience"],
    "right": condition.before["right"].astype(float),
    "closed_form": one_layer.salience_of_exposure(exposure_KxSxR, config.world.answers),
  }
  return {name: along(hypotheses.by_popularity(condition, array)) for name, array in arrays.items()}


def _updates(condition: Condition) -> Json:
  """Returns salience, the update and the share of positive updates of each tenth of facts.

  Tenths are by salience, least stored first.
  """
  update_KxSxR = condition.before["update"]
  arrays = {
    "salience": condition.before["salience"],
    "update": update_KxSxR,
    "positive": (update_KxSxR > 0).astype(float),
  }
  return {name: along(hypotheses.by_salience(condition, array)) for name, array in arrays.items()}


def _sets(condition: Condition, cosine: float) -> Json:
  """Returns measures on test subjects before finetuning and along it, for each set.

  `steps`, and lists of estimates; by tenth at the last step, as is `attention_of_own`, to the
  subjects of the very facts finetuned on.
  """
  sets: Json = {"steps": [0, *condition.steps]}
  for name, after in condition.after.items():
    curves = {key: np.concatenate([condition.untouched[key], after[key]], axis=1) for key in after}
    curves["attention"] = curves["attention"].mean(axis=2)
    row: Json = {key: along(curves[key]) for key in ("accuracy", "common", "attention")}
    row["attention_of_own"] = estimate(conditions.attention_of_own(condition, name, cosine))
    row["by_popularity"] = along(after["accuracy_by_bin"][:, -1])
    sets[name] = row
  sets["before"] = {"by_popularity": along(condition.untouched["accuracy_by_bin"][:, 0])}
  return sets


def _row(title: str, condition: Condition) -> Json:
  return {"title": title, **hypotheses.summarise(condition)}


def _add_conditions(config: Config, results: Results) -> None:
  """Adds rows of other embeddings, and of the closed form."""
  world = _world(config)
  settings = condition_settings(config)
  cosine = config.conditions.cosine
  shared = conditions.run(
    world, _pretrained(config, world, cosine), dataclasses.replace(settings, cosine=cosine)
  )
  answers = sizes_of(config.world).all_answers
  exposure = config.conditions.exposure
  closed_form = phases.closed_form(world, answers, exposure, config.cosine)
  closed = conditions.run(world, closed_form, settings)
  results.theory["conditions"] += [
    _row(f"Subjects share a direction (cosine {cosine:g})", shared),
    _row(f"W_V in closed form (exposure {exposure:g})", closed),
  ]


def _add_stored(config: Config, results: Results) -> None:
  """Adds what depends on how well facts are stored."""
  results.theory["stored"] = phases.by_pretraining(
    _world(config),
    sizes_of(config.world),
    tuple(config.stored),
    config.pretrain.learning_rate,
    condition_settings(config),
  )


def _add_phases(config: Config, results: Results) -> None:
  """Adds the phase diagram."""
  grid = config.phases
  progress = Progress("phase diagram", len(grid.zipf) * len(grid.sizes))
  results.theory["phases"] = phases.diagram(
    sizes_of(config.world),
    seed_list(config.seeds),
    phases.Descent(config.pretrain.steps, config.pretrain.learning_rate),
    dataclasses.replace(condition_settings(config), steps=tuple(grid.steps)),
    grid.zipf,
    grid.sizes,
    progress.update,
  )
  results.theory["phase_steps"] = list(grid.steps)


def _add_variant(
  name: str,
  config: Config,
  results: Results,
) -> None:
  """Adds the row of a variant of the model."""
  section = config.variants
  path = "config.variants"
  row = variants.run(
    variants.VARIANTS[name],
    sizes_of(section.world, f"{path}.world"),
    seed_list(config.seeds),
    variants.Pretraining(**values_of(variants.Pretraining, section.pretrain, f"{path}.pretrain")),
    phases.Descent(**values_of(phases.Descent, section.finetune, f"{path}.finetune")),
  )
  results.theory.setdefault("variants", []).append(row)


def summary_lines(theory: Json) -> list[str]:
  """Returns the predictions and their estimates as lines of text.

  Args:
    theory: what theory.json holds.
  """
  lines: list[str] = []
  for claim in theory["claims"]:
    lines.append(f"{claim['verdict'].upper()}: {claim['statement']}")
    for row in claim["estimates"]:
      if row["mean"] is None:
        continue
      holds = "yes" if row["holds"] else "no"
      lines.append(
        f"  {holds:3} {row['mean']:+.3f} {_interval(row):18} wanted {row['wanted']} 0: "
        f"{row['what']}"
      )
  return lines


def _interval(row: Json) -> str:
  return "" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
