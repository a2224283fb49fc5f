"""Diagnosis of a workdir's predictions: of all arms, and of the comparisons that a study makes.

Beside what diagnosis/summary.py gives, diagnosis.json holds for the report:

  curves           {"steps" or "alpha": {arm: [{"step" or "alpha": number, "label": label}]}}
  table            labels of the arms in their order, points of curves left out
  titles, groups   of each label of the table
  descriptions     of each label of the table, {label: {"kind", "roles", "needs", "cost",
                   "use_when", "caption"}} (study/descriptions.py)
  selected         {label: {seed: {"step", "alpha" or "tau": number, "development": share}}}
  roles            config.roles: labels of finetuned, zero_shot, ceiling, corrected, remedies
  remedies         {label of a remedy: label of what it mends}
  relation_labels  {relation: its label}
  run              what was run: the config, the facts' numbers, versions, device, times
  claims           of both papers, whether they hold here (study/claims.py)
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from factshock.diagnosis import attention, summary, table
from factshock.facts import counts as counting
from factshock.facts import relations as relation_files
from factshock.facts import schema
from factshock.predictions import accuracy, reading
from factshock.predictions.points import Point
from factshock.predictions.reading import Predictions
from factshock.report import folder
from factshock.report import reading as report
from factshock.runtime import files, messages, progress
from factshock.runtime.workdir import Workdir
from factshock.study import claims, comparisons, descriptions, roles
from factshock.study import config as configs
from factshock.study.arms import registry
from factshock.study.arms.kind import Pair
from factshock.study.config import Config
from factshock.types import Answer, Relation

# Of a label the label of the files that hold its answers, by seed.
_Files: TypeAlias = dict[int, str]
_Diagnosis: TypeAlias = dict[str, Any]


@dataclasses.dataclass
class _Listing:
  """The labels of a study, filled arm by arm.

  Attributes:
    titles: of the labels of the table, in its order.
    files: of every label, points of curves included.
    curves: of each arm by what its points differ by, "step", "alpha" or "tau".
    selected: what was chosen on development facts for an arm, by seed.
  """

  titles: dict[str, str] = dataclasses.field(default_factory=dict)
  files: dict[str, _Files] = dataclasses.field(default_factory=dict)
  curves: dict[str, dict[str, list[dict[str, Any]]]] = dataclasses.field(
    default_factory=lambda: {"step": {}, "alpha": {}, "tau": {}}
  )
  selected: dict[str, dict[str, dict[str, float]]] = dataclasses.field(default_factory=dict)


def diagnose(
  config: Config,
  workdir: Workdir,
  run_facts: Mapping[str, Any],
) -> _Diagnosis:
  """Diagnoses all predictions of a workdir and writes diagnosis.json.

  Args:
    config: of the experiment.
    workdir: with every arm's predictions.
    run_facts: what is recorded of the run itself.

  Returns:
    What it wrote.
  """
  listing = _list_labels(config, workdir)
  arms = _predictions(workdir, listing)
  first_seed = configs.seeds(config)[0]
  relations = relation_files.read_relations(workdir.relations(first_seed))
  types = {name: relation["type"] for name, relation in relations.items()}
  entries = _report_entries(config, listing, relations)
  options = _options(config, workdir, listing, types)
  pairs = [*options.pairs, *_best_remedy_pairs(config, arms, entries)]
  options = dataclasses.replace(options, pairs=list(dict.fromkeys(pairs)))
  diagnosis = summary.diagnose(arms, options, _bootstrap(config)) | entries
  diagnosis["run"] = _run_record(config, workdir, run_facts)
  diagnosis |= _attention(config, workdir, listing, arms)
  diagnosis["claims"] = claims.rows(config, diagnosis)
  with files.atomic_write(workdir.diagnosis) as file:
    json.dump(diagnosis, file, allow_nan=False)
  return diagnosis


def _predictions(workdir: Workdir, listing: _Listing) -> dict[str, dict[int, Predictions]]:
  """Returns the predictions of test facts by label and seed; each file is read once."""
  read = functools.cache(lambda label, seed: _read(workdir, label, seed, "test"))
  labels = progress.over("reading predictions", listing.files.items(), len(listing.files))
  return {
    label: {seed: read(file_label, seed) for seed, file_label in by_seed.items()}
    for label, by_seed in labels
  }


def _best_remedy_pairs(
  config: Config,
  arms: Mapping[str, Mapping[int, Predictions]],
  entries: _Diagnosis,
) -> list[Pair]:
  """Returns pairs of the remedy that has most right with the others, to be compared."""
  column = accuracy.CRITERIA.index(config.diagnosis.criterion)
  shares = {}
  for label in entries["table"]:
    of_seeds = [accuracy.scores(arm)[:, column].mean() for arm in arms[label].values()]
    shares[label] = {"right": {"mean": sum(map(float, of_seeds)) / len(of_seeds)}}
  shown = report.tidy({**entries, "arms": shares})
  return comparisons.of_best_remedy(report.best_remedy(shown), report.remedies(shown))


def _report_entries(
  config: Config,
  listing: _Listing,
  relations: Mapping[str, Relation],
) -> _Diagnosis:
  """Returns what the report needs of the study's labels, arms and relations."""
  labels = list(listing.titles)
  return {
    "curves": {
      "steps": listing.curves["step"],
      "alpha": listing.curves["alpha"],
    },
    "table": labels,
    "titles": listing.titles,
    "groups": {label: descriptions.group(config, label) for label in labels},
    "descriptions": {label: descriptions.describe(config, label) for label in labels},
    "selected": listing.selected,
    "relation_labels": {name: relation["label"] for name, relation in relations.items()},
    "roles": {
      **config.roles.to_dict(),
      "remedies": list(config.roles.remedies),
    },
    "remedies": comparisons.remedies(config),
  }


def summary_lines(diagnosis: _Diagnosis) -> list[str]:
  """Returns the report's sentences, the claims, and tables of arms and comparisons as lines.

  Points of curves are left out of the tables.
  """
  listed = set(diagnosis["table"])
  arms = {label: diagnosis["arms"][label] for label in diagnosis["table"]}
  compared = [row for row in diagnosis["comparisons"] if listed >= {row["arm"], row["against"]}]
  tables = table.lines({**diagnosis, "arms": arms, "comparisons": compared})
  told = claims.lines(diagnosis.get("claims", []), diagnosis["titles"])
  heading = ["", "Claims of the papers, here:"] if told else []
  return [*folder.sentences(diagnosis), *heading, *told, "", *tables]


def _list_labels(config: Config, workdir: Workdir) -> _Listing:
  listing = _Listing()
  for name in config.arms:
    _list_arm(config, workdir, name, listing)
  return listing


def _list_arm(
  config: Config,
  workdir: Workdir,
  name: str,
  listing: _Listing,
) -> None:
  """Adds an arm's labels: its points, the arm as a whole, and the arm stopped early."""
  seeds = configs.seeds(config)
  points = registry.points(config, name)
  varies = registry.kind_of(config, name).varies
  listing.files |= {point.label: dict.fromkeys(seeds, point.label) for point in points}
  listing.titles[name] = descriptions.title(config, name)
  if varies is None:
    return
  listing.curves[varies][name] = [
    {varies: _number(point), "label": point.label} for point in points
  ]
  best = {seed: _best_point(config, workdir, points, seed) for seed in seeds}
  chosen = Point(name).early.label if varies == "step" else name
  listing.files[chosen] = {seed: point.label for seed, (point, _) in best.items()}
  listing.selected[chosen] = {
    str(seed): {varies: _number(point), "development": share}
    for seed, (point, share) in best.items()
  }
  if varies == "step":
    listing.files[name] = listing.files[points[-1].label]
  listing.titles[chosen] = descriptions.title(config, chosen)


def _number(point: Point) -> float:
  if point.value is None:
    raise ValueError(f"{point}: expected a point of a curve")
  return float(point.value)


def _best_point(
  config: Config,
  workdir: Workdir,
  points: Sequence[Point],
  seed: int,
) -> tuple[Point, float]:
  """Returns the point with most development facts right, the first of equals, and their share."""
  column = accuracy.CRITERIA.index(config.diagnosis.criterion)
  shares = []
  for point in points:
    predictions = _read(workdir, point.label, seed, "development")
    shares.append(float(accuracy.scores(predictions)[:, column].mean()))
  best = max(range(len(points)), key=shares.__getitem__)
  return points[best], shares[best]


def _options(
  config: Config,
  workdir: Workdir,
  listing: _Listing,
  types: Mapping[str, str],
) -> summary.Options:
  """Returns what the diagnosis knows of the facts, and the arms that it compares."""
  seeds = configs.seeds(config)
  labels = list(listing.titles)
  finetuned = config.roles.finetuned
  corrected = config.roles.corrected or None
  finetuning_set = roles.finetuning_set(config, finetuned) if finetuned else None
  read = functools.cache(lambda name: _answers_by_seed(workdir, seeds, name))
  early = Point(finetuned).early.label if finetuned else None
  listed_entities = (config.roles.zero_shot, finetuned, early, *config.roles.remedies)
  return summary.Options(
    counts={seed: counting.read_counts(workdir.counts(seed)) for seed in seeds},
    reference=config.roles.zero_shot or None,
    known=config.roles.ceiling or None,
    finetuning=read(finetuning_set) if finetuning_set else None,
    finetuning_by_arm=_finetuning_answers(config, listing.files, read),
    pairs=comparisons.pairs(config, labels),
    entity_arms=[label for label in labels if label in listed_entities],
    finetuned=finetuned if corrected else None,
    corrected=corrected,
    types=types,
    criterion=config.diagnosis.criterion,
  )


def _finetuning_answers(
  config: Config,
  labels: Iterable[str],
  read: Callable[[str], dict[int, list[Answer]]],
) -> dict[str, dict[int, list[Answer]]]:
  """Returns the answers of the facts that the arm behind each label has learned, by seed."""
  by_label = {}
  for label in labels:
    name = roles.finetuning_set(config, Point.parse(label).arm)
    if name:
      by_label[label] = read(name)
  return by_label


def _answers_by_seed(
  workdir: Workdir,
  seeds: Sequence[int],
  name: str,
) -> dict[int, list[Answer]]:
  """Returns relation and object of each fact of a set, by seed."""
  answers = {}
  for seed in seeds:
    facts = schema.read_facts(workdir.fact_set(seed, name))
    answers[seed] = [(fact["relation"], fact["object"]) for fact in facts]
  return answers


def _attention(
  config: Config,
  workdir: Workdir,
  listing: _Listing,
  arms: Mapping[str, dict[int, Predictions]],
) -> _Diagnosis:
  """Returns {"attention": ...} of the arms with attention=True whose files are there, or {}."""
  paths = _attention_paths(config, workdir, listing.files)
  if not paths:
    return {}
  zero_shot = config.roles.zero_shot
  reference = zero_shot if zero_shot in paths else None
  labels = {label for label in listing.titles if label in paths}
  pairs = []
  for arm, against in comparisons.pairs(config, list(listing.titles)):
    if against == reference or not labels.issuperset((arm, against)):
      continue
    if paths[arm].keys() & paths[against].keys():
      pairs.append((arm, against))
  return {
    "attention": attention.diagnose(
      paths,
      reference=reference,
      pairs=pairs,
      predictions={label: arms[label] for label in paths},
      criterion=config.diagnosis.criterion,
      bootstrap=_bootstrap(config),
    )
  }


def _attention_paths(
  config: Config,
  workdir: Workdir,
  files_of: Mapping[str, _Files],
) -> dict[str, dict[int, str]]:
  """Returns the attention files that are there, by label and seed; names those that are not."""
  paths: dict[str, dict[int, str]] = {}
  missing: list[str] = []
  for label, by_seed in files_of.items():
    if not config.arms[Point.parse(label).arm].get("attention"):
      continue
    for seed, file_label in by_seed.items():
      path = workdir.attention(file_label, seed)
      if os.path.exists(path):
        paths.setdefault(label, {})[seed] = path
      else:
        missing.append(path)
  if missing:
    names = ", ".join(dict.fromkeys(missing))
    messages.say(f"  attention: left out as they are not there: {names}")
  return paths


def _bootstrap(config: Config) -> summary.Bootstrap:
  """Returns the settings of the bootstrap over queries and seeds."""
  return summary.Bootstrap(config.diagnosis.resamples, config.diagnosis.confidence)


def _read(
  workdir: Workdir,
  label: str,
  seed: int,
  split: str,
) -> Predictions:
  return reading.read(workdir.predictions(label, seed, split))


def _run_record(
  config: Config,
  workdir: Workdir,
  run_facts: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns what the report says of the run: its config, and how many facts each set has."""
  folder = workdir.facts(configs.seeds(config)[0])
  sizes = {}
  for file_name in sorted(os.listdir(folder)):
    if file_name.endswith(".jsonl") and file_name != "relations.jsonl":
      facts = schema.read_facts(os.path.join(folder, file_name))
      sizes[file_name.removesuffix(".jsonl")] = len(facts)
  return {"name": config.name, "config": configs.to_dict(config), "facts": sizes, **run_facts}
