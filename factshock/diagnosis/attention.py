"""How much models attend to the subject of a fact, on the test facts: the files, and all arms and seeds together.

Ghosal, Hashimoto and Raghunathan 2024 (arXiv 2406.14785): finetuning on facts that are stored poorly makes a model
attend less to every subject. The files say how much attention weight the subject's tokens get in each layer and head,
and what comes through it.
"""

import collections
import functools
import typing
import zipfile
import zlib

import numpy as np

from factshock.diagnosis import measures, shock, statistics
from factshock.diagnosis.notes import ATTENTION
from factshock.predictions import accuracy
from factshock.predictions import reading as prediction_files
from factshock.runtime.errors import UserError

THROUGH_VALUES = ("contribution", "contribution_rest", "salience")
SITES = {
  "encoder": ("mass",),
  "cross": ("mass", *THROUGH_VALUES),
  "self": ("mass", *THROUGH_VALUES),
}
BY_HEAD = ("mass", "contribution", "salience")
DIGITS = 4  # of a number in a table of layers and heads


class Attention(typing.NamedTuple):
  """What one file holds: `facts` (Predictions that say nothing) and, of the same order, arrays [F] and [F, N, H].

  `uniform` is the share of the subject's tokens among all; `sites` dict site -> dict name -> float array, NaN in the
  rows of facts whose prompt does not hold their subject.
  """

  facts: prediction_files.Predictions
  uniform: np.ndarray
  sites: dict


class _Measured(typing.NamedTuple):
  """One file, measured: site -> name -> [F], site -> name -> [N, H], site -> change of mass against the reference."""

  columns: dict
  heads: dict
  moved: dict


def read(path):
  """Reads the attention of one arm and seed from an .npz file; nothing pickled is read.

  Raises:
    UserError: the file is missing or broken, or an array is missing or of another shape or type, or holds what cannot
      be; names file and array, what was expected and what was got.
  """
  path = str(path)
  arrays = _load(path)
  take = functools.partial(_array, path, arrays)
  subject_F = take("subject", "U", (None,))
  size = (len(subject_F),)
  if size == (0,):
    raise UserError(f"{path}: subject: expected at least one fact, got none")
  texts = [subject_F, take("relation", "U", size), take("object", "U", size)]
  popularity_F = take("popularity", "fiu", size).astype(np.float64)
  among_F, tokens_F = (take(name, "iu", size) for name in ("subject_tokens", "tokens"))
  if not ((0 <= among_F) & (among_F <= tokens_F) & (tokens_F > 0)).all():
    raise UserError(
      f"{path}: subject_tokens, tokens: expected 0 <= subject_tokens <= tokens and tokens > 0 of every "
      f"fact, got {among_F.min()} to {among_F.max()} and {tokens_F.min()} to {tokens_F.max()}"
    )
  sites = take("sites", "U", (None,)).tolist()
  if not sites or not set(sites) <= SITES.keys():
    raise UserError(
      f"{path}: sites: expected some of {', '.join(SITES)}, got {', '.join(sites) or 'none'}"
    )
  found = {site: _site(path, take, site, size) for site in sites}
  return Attention(_facts(path, texts, popularity_F), among_F / tokens_F, found)


def _load(path):
  try:
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  except FileNotFoundError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror}") from error
  except (
    OSError,
    ValueError,
    AttributeError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise UserError(
      f"{path}: expected an .npz file of numpy arrays, none of them pickled, got a broken or other file "
      f"({error}); remove it and run the experiment again"
    ) from error


def _array(path, arrays, name, kinds, shape):
  """An array of one of some kinds of type and a shape in which None is any number."""
  if name not in arrays:
    raise UserError(f"{path}: expected an array {name!r}, got only {', '.join(arrays) or 'none'}")
  found = arrays[name]
  fits = len(found.shape) == len(shape) and all(
    want in (None, got) for want, got in zip(shape, found.shape)
  )
  if found.dtype.kind not in kinds or not fits:
    words = "texts" if kinds == "U" else "whole numbers" if kinds == "iu" else "numbers"
    wanted = ", ".join("any" if want is None else str(want) for want in shape)
    raise UserError(
      f"{path}: {name}: expected {words} of shape [{wanted}], got {found.dtype} of shape "
      f"{list(found.shape)}"
    )
  return found


def _site(path, take, site, size):
  """dict name -> [F, N, H] of one site."""
  mass_FxNxH = take(f"{site}/mass", "f", (*size, None, None))
  found = {
    "mass": mass_FxNxH,
    **{name: take(f"{site}/{name}", "f", mass_FxNxH.shape) for name in SITES[site][1:]},
  }
  if not mass_FxNxH.size:
    raise UserError(
      f"{path}: {site}/mass: expected at least one layer and head, got shape {list(mass_FxNxH.shape)}"
    )
  for name, array in found.items():
    unknown_F = np.isnan(array).all(axis=(1, 2))
    if not np.isfinite(array[~unknown_F]).all():
      raise UserError(
        f"{path}: {site}/{name}: expected finite numbers, or NaN in all layers and heads of a fact; fact "
        f"{int(np.argmin(np.isfinite(array).all(axis=(1, 2)) | unknown_F))} has others"
      )
  known = mass_FxNxH[~np.isnan(mass_FxNxH)]
  if known.size and (
    known.min() < 0 or known.max() > 1.01
  ):  # bfloat16 weights may add up to a little over 1
    raise UserError(
      f"{path}: {site}/mass: expected shares from 0 to 1, got {known.min():g} to {known.max():g}"
    )
  return found


def _facts(path, texts, popularity_F):
  """The facts as predictions that say nothing, so that they are matched as those are."""
  rows = (
    {
      "subject": subject,
      "relation": relation,
      "object": gold,
      "prediction": "",
      "popularity": None if np.isnan(popularity) else popularity,
    }
    for subject, relation, gold, popularity in zip(
      *(column.tolist() for column in (*texts, popularity_F))
    )
  )
  return prediction_files.from_rows(enumerate(rows), path)


def diagnose(
  paths,
  *,
  reference=None,
  pairs=(),
  predictions=None,
  criterion="exact_match",
  resamples=1000,
  confidence=0.95,
  seed=0,
):
  """Attention to the subject of all arms, as plain values (its `notes` define them).

  Files of one seed hold the same facts, in any order: they are matched by subject, relation and object. Each is read
  once, and one at a time beside that of the reference, as they may be large.

  Args:
    paths: dict label -> dict seed -> path of an attention file.
    reference: label of the arm that all others are compared with, by layer and head too; None compares only `pairs`.
    pairs: (arm, against) labels to compare besides.
    predictions: dict label -> dict seed -> Predictions of the same facts, where attention is to be told apart by right
      and wrong answers; labels may be missing.
    criterion: what makes an answer right, "exact_match" or "contains".
    resamples, confidence, seed: of the bootstrap, over facts and seeds.

  Returns:
    {"reference", "seeds", "resamples", "confidence", "notes", "arms": {label: {"sites": {site: ...}}}, "comparisons"}.

  Raises:
    UserError: no arms, an unknown label, arms to compare without a common seed, files of one seed with different facts,
      files of different sites, layers or heads.
  """
  _check(paths, reference, pairs)
  seeds = sorted({run for by_seed in paths.values() for run in by_seed})
  samples = collections.defaultdict(dict)
  files = {}
  bins = {}
  shapes = {}
  for place, run in enumerate(seeds):
    here = {label: by_seed[run] for label, by_seed in paths.items() if run in by_seed}
    facts, found = _read_seed(here, reference, shapes)
    bin_F, bins[run] = measures.popularity_bins(facts, {"facts": facts})
    right = {
      label: _right(facts, by_seed[run], criterion)
      for label, by_seed in (predictions or {}).items()
      if label in here and run in by_seed
    }
    draw = statistics.make_draw(len(facts), resamples, np.random.default_rng([seed, place]))
    for key, columns in _columns(here, found, reference, pairs, bin_F, right):
      samples[key][run] = _means(draw, columns)
    files[run] = {label: found[path] for label, path in here.items()}
  finish = functools.partial(
    statistics.estimate, resamples=resamples, confidence=confidence, seed=seed
  )
  return {
    "reference": reference,
    "seeds": seeds,
    "resamples": resamples,
    "confidence": confidence,
    "notes": ATTENTION,
    "arms": {
      label: {
        "sites": {
          site: _arm(label, site, reference, samples, files, bins, finish) for site in shapes
        }
      }
      for label in paths
    },
    "comparisons": [
      {
        "arm": arm,
        "against": against,
        "site": site,
        **_change(samples[arm, against, site], bins, finish),
      }
      for arm, against in dict.fromkeys(map(tuple, pairs))
      for site in shapes
    ],
  }


def _check(paths, reference, pairs):
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
        f"attention: comparison of {label!r} with {against!r}: expected a seed that both have, got seeds "
        f"{sorted(paths[label])} and {sorted(paths[against])}"
      )


def _read_seed(here, reference, shapes):
  """(facts in an order that file order does not change, dict path -> _Measured) of one seed; fills empty `shapes`."""
  first = reference if reference in here else next(iter(here))
  base = read(here[first])
  base = _in_order(base, prediction_files.canonical_order(base.facts))
  found = {}
  for label, path in {first: here[first], **here}.items():
    if path in found:
      continue
    attention = base
    if label != first:
      attention = read(path)
      rows = prediction_files.match(
        base.facts, attention.facts, (f"arm {first!r}", f"arm {label!r}")
      )
      attention = _in_order(attention, rows)
    _check_shapes(path, attention, shapes)
    found[path] = _measure(attention, base if reference in here else None)
  return base.facts, found


def _in_order(attention, rows):
  sites = {
    site: {name: array[rows] for name, array in found.items()}
    for site, found in attention.sites.items()
  }
  return Attention(prediction_files.take(attention.facts, rows), attention.uniform[rows], sites)


def _check_shapes(path, attention, shapes):
  """Remembers the sites, layers and heads of the first file; a UserError where another has others."""
  mine = {site: found["mass"].shape[1:] for site, found in attention.sites.items()}
  if shapes and mine != shapes:
    words = [
      ", ".join(f"{site} {layers} x {heads}" for site, (layers, heads) in one.items())
      for one in (shapes, mine)
    ]
    raise UserError(
      f"{path}: expected the sites, layers and heads of the other files, {words[0]}, got {words[1]}; "
      "compare arms of one model only"
    )
  shapes.update(mine)


def _measure(attention, reference):
  columns = {}
  heads = {}
  moved = {}
  for site, found in attention.sites.items():
    mass_F = found["mass"].mean(axis=(1, 2), dtype=np.float64)
    columns[site] = {"mass": mass_F, "share_of_uniform": shock.divide(mass_F, attention.uniform)}
    for name in SITES[site][1:]:
      sums_FxN = found[name].sum(axis=2, dtype=np.float64)
      columns[site][name] = sums_FxN.sum(axis=1) / (
        found[name].shape[2] if name == "salience" else 1
      )
    heads[site] = {name: _head_means(found[name]) for name in BY_HEAD if name in found}
    if reference is not None:
      other = reference.sites[site]["mass"]
      both_F = ~np.isnan(found["mass"][:, 0, 0] + other[:, 0, 0])
      moved[site] = _head_means(found["mass"], both_F) - _head_means(other, both_F)
  return _Measured(columns, heads, moved)


def _head_means(array_FxNxH, known_F=None):
  """Mean over the facts that are known: [N, H], NaN where none is."""
  known_F = ~np.isnan(array_FxNxH[:, 0, 0]) if known_F is None else known_F
  if not known_F.any():
    return np.full(array_FxNxH.shape[1:], np.nan)
  return np.mean(array_FxNxH, axis=0, dtype=np.float64, where=known_F[:, None, None])


def _right(facts, answers, criterion):
  """Whether the answer to each fact is right: bool [F]."""
  answers = prediction_files.take(
    answers, prediction_files.match(facts, answers, ("the attention", "the predictions"))
  )
  return accuracy.scores(answers)[:, accuracy.CRITERIA.index(criterion)] > 0


def _columns(here, found, reference, pairs, bin_F, right):
  """Yields (key, dict name -> [F]): levels of (label, site), changes of (label, against, site); NaN does not count."""
  for label, path in here.items():
    for site, columns in found[path].columns.items():
      answered = {"right": right[label], "wrong": ~right[label]} if label in right else {}
      yield (label, site), _with_groups(columns, bin_F, answered)
  against = [(label, reference) for label in here if reference in here and label != reference]
  for label, other in dict.fromkeys([*against, *map(tuple, pairs)]):
    if not {label, other} <= here.keys():
      continue
    answered = {}
    if label in right and other in right:
      answered = {"lost": right[other] & ~right[label], "kept": right[other] & right[label]}
    for site, mine in found[here[label]].columns.items():
      others = found[here[other]].columns[site]
      moved = {name: mine[name] - others[name] for name in SITES[site]}
      yield (label, other, site), _with_groups(moved, bin_F, answered)


def _with_groups(columns, bin_F, answered):
  """Columns, and that of mass within each quarter of popularity and each group of answers."""
  groups = dict(answered)
  if bin_F is not None:
    groups |= {f"popularity/{i}": bin_F == i for i in range(measures.BINS)}
  return {
    **columns,
    **{name: np.where(group_F, columns["mass"], np.nan) for name, group_F in groups.items()},
  }


def _means(draw, columns):
  """dict name -> Sample: the mean of what is not NaN; with groups lost and kept their difference too."""
  values_FxK = np.stack(list(columns.values()), axis=1)
  known_FxK = ~np.isnan(values_FxK)
  table_FxK = np.concatenate([np.where(known_FxK, values_FxK, 0), known_FxK], axis=1)
  means_K, means_RxK = (
    shock.divide(*np.split(sums, 2, axis=-1))
    for sums in (table_FxK.sum(axis=0), statistics.sums(draw, table_FxK))
  )
  found = {
    name: measures.Sample(float(mean), means_R)
    for name, mean, means_R in zip(columns, means_K, means_RxK.T)
  }
  if "lost" in found:
    lost = found["lost"]
    kept = found["kept"]
    found["lost_minus_kept"] = measures.Sample(
      lost.value - kept.value, lost.resamples - kept.resamples
    )
  return found


def _arm(label, site, reference, samples, files, bins, finish):
  """One arm at one site: counts, levels, tables of layers and heads, and the change against the reference."""
  mine = {run: found[label] for run, found in files.items() if label in found}
  known = [~np.isnan(one.columns[site]["mass"]) for one in mine.values()]
  found = {
    "facts": int(sum(one.sum() for one in known)),
    "left_out": int(sum((~one).sum() for one in known)),
    **_block(samples[label, site], bins, finish),
    "by_head": {
      name: _table([one.heads[site][name] for one in mine.values()])
      for name in BY_HEAD
      if name in SITES[site]
    },
  }
  if (label, reference, site) in samples:
    moved = {run: one.moved[site] for run, one in mine.items() if site in one.moved}
    found["change"] = {
      **_change(samples[label, reference, site], bins, finish),
      "by_head": {
        "mean": _table(list(moved.values())),
        "by_seed": {str(run): _table([table]) for run, table in moved.items()},
      },
    }
  return found


def _change(by_seed, bins, finish):
  found = _block(by_seed, bins, finish)
  same = sum(
    samples["mass"].value * (found["mass"]["mean"] or 0) > 0 for samples in by_seed.values()
  )
  return {**found, "seeds_same_sign": f"{same}/{len(by_seed)}"}


def _block(by_seed, bins, finish):
  """Estimates of dict seed -> dict name -> Sample, those of quarters of popularity as a list."""
  by_name = collections.defaultdict(dict)
  for run, found in by_seed.items():
    for name, sample in found.items():
      by_name[name][run] = sample
  quarters = [
    _quarter(i, by_name.pop(f"popularity/{i}"), bins, finish)
    for i in range(measures.BINS)
    if f"popularity/{i}" in by_name
  ]
  found = {name: finish(samples) for name, samples in by_name.items()}
  return {**found, **({"by_popularity": [row for row in quarters if row]} if quarters else {})}


def _quarter(i, by_seed, bins, finish):
  rows = [bins[run][i] for run in by_seed if bins[run][i]]
  return rows and {
    "low": min(row["low"] for row in rows),
    "high": max(row["high"] for row in rows),
    "mass": finish(by_seed),
  }


def _table(tables):
  """The mean over seeds of tables [N, H] as lists of short numbers; None where it is not known."""
  mean_NxH = (
    np.nanmean(tables, axis=0) if not np.isnan(tables).all() else np.full(tables[0].shape, np.nan)
  )
  if np.isnan(mean_NxH).any():
    return None
  return [[float(f"{value:.{DIGITS}g}") for value in row] for row in mean_NxH.tolist()]
