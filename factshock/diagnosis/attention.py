"""Attention of models to the subjects of the test facts: all arms and seeds together.

Ghosal, Hashimoto and Raghunathan 2024 (arXiv 2406.14785): finetuning on facts that are stored
poorly makes a model attend less to every subject.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from factshock.diagnosis import attention_files, queries, shock, statistics
from factshock.diagnosis.attention_files import SITES, Attention
from factshock.diagnosis.notes import ATTENTION
from factshock.diagnosis.options import Pair
from factshock.diagnosis.queries import PopularityBin
from factshock.diagnosis.statistics import DEFAULT_BOOTSTRAP, Bootstrap, Sample, SeedEstimate
from factshock.predictions import accuracy, reading
from factshock.predictions.reading import Predictions, PredictionsByArm
from factshock.runtime.errors import UserError

BY_HEAD = ("mass", "contribution", "salience")
DIGITS = 4  # of a number in a table of layers and heads

Json: TypeAlias = dict[str, Any]
Columns: TypeAlias = dict[str, np.ndarray]  # name -> [F]
Key: TypeAlias = tuple[str, ...]  # (label, site), or (label, against, site) of a change
Samples: TypeAlias = dict[str, Sample]  # by name of the measure
Finish: TypeAlias = Callable[[Mapping[int, Sample]], SeedEstimate]
Bins: TypeAlias = Sequence[PopularityBin | None]


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
  """Measures of one file.

  Attributes:
    columns: site -> name -> [F].
    heads: site -> name -> mean over facts [N, H].
    change: site -> change of mass against the reference [N, H]; empty without a reference.
  """

  columns: dict[str, Columns]
  heads: dict[str, dict[str, np.ndarray]]
  change: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class _Gathered:
  """Measures of the seeds so far.

  Attributes:
    samples: key -> seed -> samples by name.
    files: seed -> label -> its file, measured.
    bins: seed -> popularity bins.
    shapes: site -> (layers, heads) of every file.
  """

  samples: dict[Key, dict[int, Samples]]
  files: dict[int, dict[str, _Measured]]
  bins: dict[int, Bins]
  shapes: dict[str, tuple[int, ...]]


def diagnose(
  paths: Mapping[str, Mapping[int, str]],
  *,
  reference: str | None = None,
  pairs: Sequence[Pair] = (),
  predictions: PredictionsByArm | None = None,
  criterion: str = "exact_match",
  bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Json:
  """Returns the attention to the subject of all arms and sites, and comparisons; see its `notes`.

  Files of one seed hold the same facts, in any order: they are matched by subject, relation and
  object. Each is read once, and one at a time beside that of the reference, as they may be large.

  Args:
    paths: label -> seed -> path of an attention file.
    reference: label of the arm that all others are compared with, by layer and head too; None
      compares only `pairs`.
    pairs: (arm, against) labels to compare besides.
    predictions: answers to the same facts, where attention is to be told apart by right and wrong
      answers; labels may be missing.
    criterion: what makes an answer right, "exact_match" or "contains".
    bootstrap: over facts and seeds.

  Raises:
    UserError: no arms, an unknown label, arms to compare without a common seed, files of one seed
      with different facts, files of different sites, layers or heads.
  """
  _check_labels(paths, reference, pairs)
  pairs = list(dict.fromkeys((label, against) for label, against in pairs))
  gathered = _Gathered(collections.defaultdict(dict), {}, {}, {})
  for index, seed in enumerate(_seeds(paths)):
    of_seed = {label: by_seed[seed] for label, by_seed in paths.items() if seed in by_seed}
    facts = _measure_files(seed, of_seed, reference, gathered)
    right = _right_answers(seed, facts, of_seed, predictions or {}, criterion)
    compared = _all_pairs(of_seed, reference, pairs)
    rng = np.random.default_rng([bootstrap.seed, index])
    draw = statistics.make_draw(len(facts), bootstrap.resamples, rng)
    _add_samples(seed, facts, right, compared, draw, gathered)
  return _results(paths, reference, pairs, gathered, bootstrap)


def _seeds(paths: Mapping[str, Mapping[int, str]]) -> list[int]:
  return sorted({seed for by_seed in paths.values() for seed in by_seed})


def _results(
  paths: Mapping[str, Mapping[int, str]],
  reference: str | None,
  pairs: Sequence[Pair],
  gathered: _Gathered,
  bootstrap: Bootstrap,
) -> Json:
  """Returns the result: its options, the estimates of all arms and comparisons, at each site."""

  def finish(by_seed: Mapping[int, Sample]) -> SeedEstimate:
    return statistics.estimate(by_seed, bootstrap)

  arms: Json = {label: {"sites": {}} for label in paths}
  comparisons: list[Json] = []
  sites = list(gathered.shapes)
  for label, arm in arms.items():
    for site in sites:
      arm["sites"][site] = _arm(label, site, reference, gathered, finish)
  for pair in pairs:
    comparisons += [_comparison(pair, site, gathered, finish) for site in sites]
  return {
    "reference": reference,
    "seeds": _seeds(paths),
    "resamples": bootstrap.resamples,
    "confidence": bootstrap.confidence,
    "notes": ATTENTION,
    "arms": arms,
    "comparisons": comparisons,
  }


def _check_labels(
  paths: Mapping[str, Mapping[int, str]],
  reference: str | None,
  pairs: Sequence[Pair],
) -> None:
  if not paths or not all(paths.values()):
    raise UserError("attention: expected files of at least one arm and seed, got none")
  named = [("reference", reference)] if reference is not None else []
  named += [("pairs", label) for pair in pairs for label in pair]
  for role, label in named:
    if label not in paths:
      raise UserError(
        f"attention: {role}: expected the label of an arm, one of {', '.join(paths)}; got {label!r}"
      )
  for label, against in pairs:
    if not paths[label].keys() & paths[against].keys():
      raise UserError(
        f"attention: comparison of {label!r} with {against!r}: expected a seed that both have, got "
        f"seeds {sorted(paths[label])} and {sorted(paths[against])}"
      )


def _all_pairs(
  of_seed: Mapping[str, str],
  reference: str | None,
  pairs: Sequence[Pair],
) -> list[Pair]:
  """Returns the pairs of one seed: every arm against the reference, then those asked for."""
  compared: list[Pair] = []
  if reference is not None and reference in of_seed:
    compared = [(label, reference) for label in of_seed if label != reference]
  compared += [pair for pair in pairs if pair[0] in of_seed and pair[1] in of_seed]
  return list(dict.fromkeys(compared))


def _measure_files(
  seed: int,
  paths: Mapping[str, str],
  reference: str | None,
  gathered: _Gathered,
) -> Predictions:
  """Measures all files of one seed, and returns the facts in an order that no file changes."""
  first = reference if reference is not None and reference in paths else next(iter(paths))
  base = attention_files.read(paths[first])
  base = attention_files.in_order(base, reading.canonical_order(base.facts))
  by_path: dict[str, _Measured] = {}
  for label, path in {first: paths[first], **paths}.items():
    if path in by_path:
      continue
    attention = base
    if label != first:
      attention = attention_files.read(path)
      rows = reading.match(base.facts, attention.facts, (f"arm {first!r}", f"arm {label!r}"))
      attention = attention_files.in_order(attention, rows)
    _check_shapes(path, attention, gathered.shapes)
    by_path[path] = _measure(attention, base if reference in paths else None)
  gathered.files[seed] = {label: by_path[path] for label, path in paths.items()}
  return base.facts


def _check_shapes(
  path: str,
  attention: Attention,
  shapes: dict[str, tuple[int, ...]],
) -> None:
  """Remembers the sites, layers and heads of the first file; other files must have the same."""
  own = {site: arrays["mass"].shape[1:] for site, arrays in attention.sites.items()}
  if shapes and own != shapes:
    raise UserError(
      f"{path}: expected the sites, layers and heads of the other files, {_shape_text(shapes)}, "
      f"got {_shape_text(own)}; compare arms of one model only"
    )
  shapes.update(own)


def _shape_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
  return ", ".join(f"{site} {layers} x {heads}" for site, (layers, heads) in shapes.items())


def _measure(attention: Attention, reference: Attention | None) -> _Measured:
  measured = _Measured({}, {}, {})
  for site, arrays in attention.sites.items():
    measured.columns[site] = _site_columns(site, arrays, attention.uniform)
    measured.heads[site] = {name: _head_means(arrays[name]) for name in BY_HEAD if name in arrays}
    if reference is not None:
      mass = arrays["mass"]
      other = reference.sites[site]["mass"]
      both_F = ~np.isnan(mass[:, 0, 0] + other[:, 0, 0])
      measured.change[site] = _head_means(mass, both_F) - _head_means(other, both_F)
  return measured


def _site_columns(
  site: str,
  arrays: Mapping[str, np.ndarray],
  uniform_F: np.ndarray,
) -> Columns:
  """Returns the measures of each fact at one site."""
  mass_F = arrays["mass"].mean(axis=(1, 2), dtype=np.float64)
  columns: Columns = {"mass": mass_F, "share_of_uniform": shock.divide(mass_F, uniform_F)}
  for name in SITES[site][1:]:
    sums_FxN = arrays[name].sum(axis=2, dtype=np.float64)
    heads = arrays[name].shape[2] if name == "salience" else 1
    columns[name] = sums_FxN.sum(axis=1) / heads
  return columns


def _head_means(array_FxNxH: np.ndarray, known_F: np.ndarray | None = None) -> np.ndarray:
  """Returns the mean over the facts that are known: [N, H], NaN where none is."""
  if known_F is None:
    known_F = ~np.isnan(array_FxNxH[:, 0, 0])
  if not known_F.any():
    return np.full(array_FxNxH.shape[1:], np.nan)
  mean_NxH = np.mean(
    array_FxNxH,
    axis=0,
    dtype=np.float64,
    where=known_F[:, None, None],
  )
  return np.asarray(mean_NxH)


def _right_answers(
  seed: int,
  facts: Predictions,
  labels: Collection[str],
  predictions: PredictionsByArm,
  criterion: str,
) -> dict[str, np.ndarray]:
  """Returns whether the answer to each fact is right, bool [F], by label of those that answered."""
  right: dict[str, np.ndarray] = {}
  for label, by_seed in predictions.items():
    if label not in labels or seed not in by_seed:
      continue
    answers = by_seed[seed]
    rows = reading.match(facts, answers, ("the attention", "the predictions"))
    right[label] = accuracy.is_right(reading.take(answers, rows), criterion)
  return right


def _add_samples(
  seed: int,
  facts: Predictions,
  right: Mapping[str, np.ndarray],
  pairs: Sequence[Pair],
  draw: statistics.Draw,
  gathered: _Gathered,
) -> None:
  """Resamples the levels of all arms and the changes of all pairs of one seed."""
  bin_F, gathered.bins[seed] = queries.popularity_bins(facts, {"facts": facts})
  files = gathered.files[seed]
  for key, columns in (*_levels(files, right), *_changes(files, right, pairs)):
    gathered.samples[key][seed] = _means(draw, columns, bin_F)


def _levels(
  files: Mapping[str, _Measured], right: Mapping[str, np.ndarray]
) -> Iterator[tuple[Key, Columns]]:
  """Yields the columns of each arm and site; NaN does not count."""
  for label, file in files.items():
    for site, columns in file.columns.items():
      groups: Columns = {}
      if label in right:
        groups = {"right": right[label], "wrong": ~right[label]}
      yield (label, site), _with_groups(columns, groups)


def _changes(
  files: Mapping[str, _Measured],
  right: Mapping[str, np.ndarray],
  pairs: Sequence[Pair],
) -> Iterator[tuple[Key, Columns]]:
  """Yields the columns of each pair of arms and site, the first less the second."""
  for label, against in pairs:
    groups: Columns = {}
    if label in right and against in right:
      groups = {
        "lost": right[against] & ~right[label],
        "kept": right[against] & right[label],
      }
    for site, columns in files[label].columns.items():
      others = files[against].columns[site]
      changes = {name: columns[name] - others[name] for name in SITES[site]}
      yield (label, against, site), _with_groups(changes, groups)


def _with_groups(columns: Columns, groups: Columns) -> Columns:
  """Returns the columns, and that of mass within each group (bool [F]), NaN outside."""
  of_groups = {name: np.where(group_F, columns["mass"], np.nan) for name, group_F in groups.items()}
  return {**columns, **of_groups}


def _means(
  draw: statistics.Draw,
  columns: Columns,
  bin_F: np.ndarray | None,
) -> Samples:
  """Returns the mean of what is not NaN in each column, and of mass in each quarter of popularity.

  With groups lost and kept their difference too.
  """
  if bin_F is not None:
    quarters = {f"popularity/{i}": bin_F == i for i in range(queries.BINS)}
    columns = _with_groups(columns, quarters)
  values_FxK = np.stack(list(columns.values()), axis=1)
  known_FxK = ~np.isnan(values_FxK)
  table_FxK = np.concatenate([np.where(known_FxK, values_FxK, 0), known_FxK], axis=1)
  means_K = shock.divide(*np.split(table_FxK.sum(axis=0), 2, axis=-1))
  means_RxK = shock.divide(*np.split(statistics.sums(draw, table_FxK), 2, axis=-1))
  samples = {
    name: Sample(float(mean), means_R) for name, mean, means_R in zip(columns, means_K, means_RxK.T)
  }
  if "lost" in samples:
    lost = samples["lost"]
    kept = samples["kept"]
    samples["lost_minus_kept"] = Sample(lost.value - kept.value, lost.resamples - kept.resamples)
  return samples


def _arm(
  label: str,
  site: str,
  reference: str | None,
  gathered: _Gathered,
  finish: Finish,
) -> Json:
  """Returns one arm at one site: counts, levels, tables by head, the change to the reference."""
  files = {seed: files[label] for seed, files in gathered.files.items() if label in files}
  known = [~np.isnan(file.columns[site]["mass"]) for file in files.values()]
  arm: Json = {
    "facts": int(sum(known_F.sum() for known_F in known)),
    "left_out": int(sum((~known_F).sum() for known_F in known)),
    **_estimates(gathered.samples[label, site], gathered.bins, finish),
    "by_head": {
      name: _table([file.heads[site][name] for file in files.values()])
      for name in BY_HEAD
      if name in SITES[site]
    },
  }
  if reference is not None and (label, reference, site) in gathered.samples:
    tables = {seed: file.change[site] for seed, file in files.items() if site in file.change}
    arm["change"] = {
      **_change(gathered.samples[label, reference, site], gathered.bins, finish),
      "by_head": {
        "mean": _table(list(tables.values())),
        "by_seed": {str(seed): _table([table_NxH]) for seed, table_NxH in tables.items()},
      },
    }
  return arm


def _comparison(
  pair: Pair,
  site: str,
  gathered: _Gathered,
  finish: Finish,
) -> Json:
  label, against = pair
  change = _change(gathered.samples[label, against, site], gathered.bins, finish)
  return {"arm": label, "against": against, "site": site, **change}


def _change(
  by_seed: Mapping[int, Samples],
  bins: Mapping[int, Bins],
  finish: Finish,
) -> Json:
  estimates = _estimates(by_seed, bins, finish)
  mean = estimates["mass"]["mean"] or 0
  same_sign = sum(samples["mass"].value * mean > 0 for samples in by_seed.values())
  return {**estimates, "seeds_same_sign": f"{same_sign}/{len(by_seed)}"}


def _estimates(
  by_seed: Mapping[int, Samples],
  bins: Mapping[int, Bins],
  finish: Finish,
) -> Json:
  """Returns estimates by name, those of quarters of popularity as a list."""
  by_name: dict[str, dict[int, Sample]] = collections.defaultdict(dict)
  for seed, samples in by_seed.items():
    for name, sample in samples.items():
      by_name[name][seed] = sample
  quarters: list[Json] = []
  for i in range(queries.BINS):
    of_quarter = by_name.pop(f"popularity/{i}", {})
    rows = [cast(PopularityBin, bins[seed][i]) for seed in of_quarter if bins[seed][i]]
    if rows:
      quarters.append(_quarter(rows, finish(of_quarter)))
  estimates: Json = {name: finish(samples) for name, samples in by_name.items()}
  if quarters:
    estimates["by_popularity"] = quarters
  return estimates


def _quarter(rows: Sequence[PopularityBin], mass: SeedEstimate) -> Json:
  return {
    "low": min(row["low"] for row in rows),
    "high": max(row["high"] for row in rows),
    "mass": mass,
  }


def _table(tables: Sequence[np.ndarray]) -> list[list[float]] | None:
  """Returns the mean over seeds of tables [N, H], short numbers; None where it is not known."""
  if np.isnan(tables).all():
    return None
  mean_NxH = np.nanmean(tables, axis=0)
  if np.isnan(mean_NxH).any():
    return None
  return [[float(f"{value:.{DIGITS}g}") for value in row] for row in mean_NxH.tolist()]
