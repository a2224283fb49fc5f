"""The one-layer study from config to page: checks, stages with an ETA, theory.json, facts.npz and report.html."""

import json
import os
import time

import numpy as np

from factshock.report import theory_page
from factshock.runtime import console, files, provenance, settings
from factshock.runtime.errors import UserError
from factshock.study import config as configs
from factshock.study import ownership
from factshock.theory import conditions, hypotheses, one_layer, phases, variants, worlds
from factshock.theory.estimates import CONFIDENCE, along, estimate

_EXPONENT = settings.Check((int, float), lambda v: 0 <= v <= 5, "an exponent from 0 to 5")
_SEVERAL = settings.Check(
  (int,),
  lambda v: v >= 2,
  "a whole number of at least 2, as with one there is nothing to tell apart",
)
_COSINE = settings.Check((int, float), lambda v: 0 <= v < 1, "a cosine from 0 to below 1")
_RISING = settings.Check(
  (tuple, list),
  lambda v: all(isinstance(x, int) and x >= 1 for x in v) and list(v) == sorted(set(v)),
  "rising whole numbers from 1",
)
_WORLD = dict(
  subjects=_SEVERAL,
  relations=_SEVERAL,
  answers=_SEVERAL,
  zipf=_EXPONENT,
  answer_zipf=_EXPONENT,
  sentences=settings.COUNT,
  test=settings.INSIDE,
)
_TRAINING = dict(steps=settings.COUNT, learning_rate=settings.POSITIVE)
SCHEMA = dict(
  study=settings.choice("one_layer"),
  name=settings.TEXT,
  seeds=configs.SEEDS,
  world=_WORLD,
  cosine=_COSINE,
  question=settings.Check((int, float), lambda v: 0 < v <= 1, "a cosine above 0, up to 1"),
  pretrain=_TRAINING,
  finetune=dict(steps=_RISING, learning_rate=settings.POSITIVE),
  phases=dict(zipf=settings.tuple_of(_EXPONENT), sizes=_RISING, steps=_RISING),
  stored=_RISING,
  conditions=dict(cosine=_COSINE, exposure=settings.POSITIVE),
  variants=dict(
    names=settings.tuple_of(settings.choice(*variants.VARIANTS)),
    world=_WORLD,
    pretrain={**_TRAINING, "known": settings.INSIDE},
    finetune=_TRAINING,
  ),
)


def check(config):
  """Checks a config. Raises: UserError naming every problem, among them sizes with which a prediction would be empty."""
  configs.check_sections(config, SCHEMA)
  problems = _size_problems("config.world", config.world) + _size_problems(
    "config.variants.world", config.variants.world
  )
  half = _pool(config.world) // 2
  problems += [
    f"config.phases.sizes: expected at most {half} subjects, half of those that are not asked about, got {size}"
    for size in config.phases.sizes
    if size > half
  ]
  problems += [
    f"config.{name}: expected at least one number of steps, got none"
    for name, steps in (
      ("finetune.steps", config.finetune.steps),
      ("phases.steps", config.phases.steps),
    )
    if not steps
  ]
  if problems:
    raise UserError("the config cannot be used:\n  " + "\n  ".join(problems))


def _pool(world):
  return world.subjects - round(world.subjects * world.test)


def _size_problems(where, world):
  found = {"asked about": world.subjects - _pool(world), "left to finetune on": _pool(world)}
  least = hypotheses.PARTS
  problems = [
    f"{where}: expected at least {least} subjects {what}, a tenth each, got {number}; have more subjects or another share `test`"
    for what, number in found.items()
    if number < least
  ]
  if world.sentences < world.subjects * world.relations:
    problems.append(
      f"{where}.sentences: expected at least one for each of {world.subjects * world.relations} facts, got {world.sentences}"
    )
  return problems


def run(config, workdir):
  """Runs the study of a config, and writes theory.json, facts.npz and report.html with its figures; returns what theory.json holds.

  facts.npz holds, for each seed, subject and relation: `answers`, `counts`, `salience`, `update` (minus the gradient by the subject's attention
  logit), and `attention/SET` after finetuning on each set (before: 1/2); and `test`, the subjects asked about.

  Raises:
    UserError: a config that cannot be used, a workdir of something else, or a loss that is not finite.
  """

  check(config)
  _check_workdir(config, workdir)
  began = time.monotonic()
  start = provenance.describe_run()
  stages = _stages(config)
  progress = console.Progress("theory", sum(work for _, work, _ in stages), every=2.0)
  found = {
    "format": 1,
    "name": config.name,
    "confidence": CONFIDENCE,
    "seeds": configs.seeds(config),
  }
  done = 0
  for title, work, stage in stages:
    print(title, flush=True)
    found |= stage(config, found)
    progress.update(done := done + work)
  arrays = found.pop("arrays")
  found["run"] = {
    **start,
    "seconds": round(time.monotonic() - began, 1),
    "config": configs.to_dict(config),
  }
  with files.atomic_write(
    os.path.join(workdir, "theory.json")
  ) as file:  # first: by it a rerun knows the workdir
    json.dump(found, file, allow_nan=False, indent=1)
  with files.atomic_write(os.path.join(workdir, "facts.npz"), binary=True) as file:
    np.savez_compressed(file, **arrays)
  theory_page.write_report(found, workdir)
  return found


def _check_workdir(config, workdir):
  """Raises a UserError where a folder holds anything but an earlier run of the same config."""
  path = os.path.join(workdir, "theory.json")
  if not os.path.exists(path):
    if os.path.isdir(workdir) and os.listdir(workdir):
      raise UserError(
        f"{workdir}: not empty, and no workdir of this study; choose another --workdir"
      )
    return
  with files.open_text(path) as file:
    differing = ownership.differences(json.load(file)["run"]["config"], configs.to_dict(config))
  if differing:
    raise UserError(
      f"{workdir}: holds another study; choose another --workdir or remove it. What differs (there, here):\n  "
      + "\n  ".join(differing)
    )


def _stages(config):
  """(title, work in seconds or so on two cores for 20 seeds, function of config and what was found so far) of each stage that is asked for."""
  stages = [
    (
      "pretraining, four finetuning sets and two of salience, with both question tokens",
      25,
      _predictions,
    ),
    ("other embeddings, and the closed form", 20, _conditions),
  ]
  if config.stored:
    stages.append(("by how well facts are stored", 65, _stored))
  if config.phases.zipf and config.phases.sizes:
    stages.append(("phase diagram", 90, _phases))
  return stages + [(f"variant {name}", 15, _variant(name)) for name in config.variants.names]


def _settings(config, **changed):
  """What conditions.run takes."""
  return {
    "cosine": config.cosine,
    "question": 1.0,
    "bins": hypotheses.PARTS,
    "learning_rate": config.finetune.learning_rate,
    "steps": tuple(config.finetune.steps),
    **changed,
  }


def _pretrained(config, world, cosine):
  return phases.at(
    phases.pretrained(
      world, config.world, (config.pretrain.steps,), config.pretrain.learning_rate, cosine
    ),
    0,
  )


def _predictions(config, _):
  world = worlds.make(config.world, configs.seeds(config))
  w_v = _pretrained(config, world, config.cosine)
  plain = conditions.run(world, w_v, _settings(config))
  question = conditions.run(world, w_v, _settings(config, question=config.question))
  arrays = {
    "answers": world.answers_KxSxR,
    "counts": world.counts_KxSxR,
    "test": world.test_KxT,
    **{name: plain.before[name] for name in ("salience", "update")},
    **{
      f"attention/{name}": conditions.attention_of_facts(plain, name, config.cosine)
      for name in plain.after
    },
  }
  return {
    "claims": hypotheses.of(plain, question),
    "stored_by_popularity": _stored_by_popularity(plain, config),
    "updates": _updates(plain),
    "sets": _sets(plain, config.cosine),
    "question_sets": _sets(question, config.cosine),
    "arrays": arrays,
    "conditions": [_row("As above", plain), _row("Question token of its own", question)],
  }


def _stored_by_popularity(condition, config):
  """Mean count, salience and share right of each tenth of subjects, least popular first, and salience by the closed form."""
  counts_KxSxR = condition.world.counts_KxSxR
  exposure = (
    config.pretrain.steps
    * config.pretrain.learning_rate
    * counts_KxSxR
    / counts_KxSxR.sum(axis=(1, 2), keepdims=True)
  )
  arrays = {
    "count": counts_KxSxR,
    "salience": condition.before["salience"],
    "right": condition.before["right"].astype(float),
    "closed_form": one_layer.salience_of_exposure(exposure, config.world.answers),
  }
  return {name: along(hypotheses.by_popularity(condition, array)) for name, array in arrays.items()}


def _updates(condition):
  """Of each tenth of facts by salience, least stored first: salience, the update and the share of facts whose update is positive."""
  update = condition.before["update"]
  arrays = {
    "salience": condition.before["salience"],
    "update": update,
    "positive": (update > 0).astype(float),
  }
  return {name: along(hypotheses.by_salience(condition, array)) for name, array in arrays.items()}


def _sets(condition, cosine):
  """Measures on test subjects before finetuning and along it for each set: `steps`, and lists of estimates; by tenth at the last step, as
  is `attention_of_own`, to the subjects of the very facts finetuned on."""
  found = {"steps": [0, *condition.steps]}
  for name, after in condition.after.items():
    curves = {key: np.concatenate([condition.untouched[key], after[key]], axis=1) for key in after}
    curves["attention"] = curves["attention"].mean(axis=2)
    found[name] = {key: along(curves[key]) for key in ("accuracy", "common", "attention")}
    found[name]["attention_of_own"] = estimate(conditions.attention_of_own(condition, name, cosine))
    found[name]["by_popularity"] = along(after["accuracy_by_bin"][:, -1])
  found["before"] = {"by_popularity": along(condition.untouched["accuracy_by_bin"][:, 0])}
  return found


def _row(title, condition):
  return {"title": title, **hypotheses.row(condition)}


def _conditions(config, found):
  world = worlds.make(config.world, configs.seeds(config))
  cosine = config.conditions.cosine
  shared = conditions.run(
    world, _pretrained(config, world, cosine), _settings(config, cosine=cosine)
  )
  answers = config.world.answers * config.world.relations
  in_closed_form = phases.closed_form(world, answers, config.conditions.exposure, config.cosine)
  closed = conditions.run(world, in_closed_form, _settings(config))
  return {
    "conditions": found["conditions"]
    + [
      _row(f"Subjects share a direction (cosine {cosine:g})", shared),
      _row(f"W_V in closed form (exposure {config.conditions.exposure:g})", closed),
    ]
  }


def _stored(config, _):
  world = worlds.make(config.world, configs.seeds(config))
  return {
    "stored": phases.by_pretraining(
      world, config.world, tuple(config.stored), config.pretrain.learning_rate, _settings(config)
    )
  }


def _phases(config, _):
  progress = console.Progress("phase diagram", len(config.phases.zipf) * len(config.phases.sizes))
  return {
    "phases": phases.diagram(
      config.world.to_dict(),
      configs.seeds(config),
      config.pretrain.to_dict(),
      _settings(config, steps=tuple(config.phases.steps)),
      config.phases.to_dict(),
      progress.update,
    ),
    "phase_steps": list(config.phases.steps),
  }


def _variant(name):
  def stage(config, found):
    of = config.variants
    row = variants.run(
      variants.VARIANTS[name],
      of.world.to_dict(),
      configs.seeds(config),
      of.pretrain.to_dict(),
      of.finetune.to_dict(),
    )
    return {"variants": found.get("variants", []) + [row]}

  return stage


def summary_lines(found):
  """The predictions and their estimates as lines of text."""
  lines = []
  for claim in found["claims"]:
    lines.append(f"{claim['verdict'].upper()}: {claim['statement']}")
    lines += [
      f"  {'yes' if row['holds'] else 'no ':3} {row['mean']:+.3f} {_interval(row):18} wanted {row['wanted']} 0: {row['what']}"
      for row in claim["estimates"]
      if row["mean"] is not None
    ]
  return lines


def _interval(row):
  return "" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
