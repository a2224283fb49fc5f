"""Files of how much a model attends to the subjects of facts: .npz arrays by fact, layer and head.

They say how much attention weight the subject's tokens get in each layer and head, and what comes
through it.
"""

import dataclasses
import functools
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.predictions import reading
from factshock.predictions.reading import Predictions
from factshock.runtime.errors import UserError

THROUGH_VALUES = ("contribution", "contribution_rest", "salience")
SITES = {
  "encoder": ("mass",),
  "cross": ("mass", *THROUGH_VALUES),
  "self": ("mass", *THROUGH_VALUES),
}

Shape: TypeAlias = Sequence[int | None]  # None is any number
KINDS = {"U": "texts", "iu": "whole numbers"}  # numpy's kinds of types, in words

Take: TypeAlias = Callable[[str, str, Shape], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
  """Attention in one file.

  Attributes:
    facts: the facts as predictions that say nothing.
    uniform: share of the subject's tokens among all tokens of each prompt [F].
    sites: site -> name -> float array [F, N, H], NaN in the rows of facts whose prompt does not
      hold their subject.
  """

  facts: Predictions
  uniform: np.ndarray
  sites: Mapping[str, Mapping[str, np.ndarray]]


def read(path: str) -> Attention:
  """Reads the attention of one arm and seed from an .npz file; nothing pickled is read.

  Raises:
    UserError: the file is missing or broken, or an array is missing or of another shape or type, or
      holds what cannot be; names file and array, what was expected and what was got.
  """
  path = str(path)
  loaded = _load(path)
  take = functools.partial(_array, path, loaded)
  subject_F = take("subject", "U", (None,))
  size = (len(subject_F),)
  if size == (0,):
    raise UserError(f"{path}: subject: expected at least one fact, got none")
  relation_F = take("relation", "U", size)
  object_F = take("object", "U", size)
  texts = [subject_F, relation_F, object_F]
  popularity_F = take("popularity", "fiu", size)
  popularity_F = popularity_F.astype(np.float64)
  uniform_F = _uniform(path, take, size)
  sites_S = take("sites", "U", (None,))
  sites: list[str] = sites_S.tolist()
  if not sites or not set(sites) <= SITES.keys():
    allowed = ", ".join(SITES)
    given = ", ".join(sites) or "none"
    raise UserError(f"{path}: sites: expected some of {allowed}, got {given}")
  arrays: dict[str, dict[str, np.ndarray]] = {}
  for site in sites:
    arrays[site] = _site_arrays(path, take, site, size)
  rows = _fact_rows(texts, popularity_F)
  facts = reading.from_rows(enumerate(rows), path)
  return Attention(facts, uniform_F, arrays)


def in_order(attention: Attention, rows: np.ndarray) -> Attention:
  """Returns the given facts (an index array), in that order."""
  sites: dict[str, dict[str, np.ndarray]] = {}
  for site, arrays in attention.sites.items():
    sites[site] = {name: array[rows] for name, array in arrays.items()}
  facts = reading.take(attention.facts, rows)
  return Attention(facts, attention.uniform[rows], sites)


def _load(path: str) -> dict[str, np.ndarray]:
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
      f"{path}: expected an .npz file of numpy arrays, none of them pickled, got a broken or other "
      f"file ({error}); remove it and run the experiment again"
    ) from error


def _array(
  path: str,
  arrays: Mapping[str, np.ndarray],
  name: str,
  kinds: str,
  shape: Shape,
) -> np.ndarray:
  """Returns an array after checking its kind of type and its shape."""
  if name not in arrays:
    present = ", ".join(arrays) or "none"
    raise UserError(f"{path}: expected an array {name!r}, got only {present}")
  array = arrays[name]
  if array.dtype.kind not in kinds or not _has_shape(array, shape):
    kind = KINDS.get(kinds, "numbers")
    sizes = ["any" if size is None else str(size) for size in shape]
    expected_shape = ", ".join(sizes)
    expected = f"{kind} of shape [{expected_shape}]"
    given = f"{array.dtype} of shape {list(array.shape)}"
    raise UserError(f"{path}: {name}: expected {expected}, got {given}")
  return array


def _has_shape(array: np.ndarray, shape: Shape) -> bool:
  if len(array.shape) != len(shape):
    return False
  return all(expected in (None, size) for expected, size in zip(shape, array.shape))


def _uniform(
  path: str,
  take: Take,
  size: Shape,
) -> np.ndarray:
  """Returns the share of the subject's tokens among all [F]."""
  subject_F = take("subject_tokens", "iu", size)
  tokens_F = take("tokens", "iu", size)
  is_possible_F = (subject_F >= 0) & (subject_F <= tokens_F)
  has_tokens_F = tokens_F > 0
  if not (is_possible_F & has_tokens_F).all():
    raise UserError(
      f"{path}: subject_tokens, tokens: expected 0 <= subject_tokens <= tokens and tokens > 0 of "
      f"every fact, got {subject_F.min()} to {subject_F.max()} and {tokens_F.min()} to "
      f"{tokens_F.max()}"
    )
  return subject_F / tokens_F


def _site_arrays(
  path: str,
  take: Take,
  site: str,
  size: tuple[int],
) -> dict[str, np.ndarray]:
  """Returns the arrays [F, N, H] of one site by name."""
  any_heads = (*size, None, None)
  mass_FxNxH = take(f"{site}/mass", "f", any_heads)
  arrays = {"mass": mass_FxNxH}
  for name in SITES[site][1:]:
    key = f"{site}/{name}"
    arrays[name] = take(key, "f", mass_FxNxH.shape)
  if not mass_FxNxH.size:
    raise UserError(
      f"{path}: {site}/mass: expected at least one layer and head, got shape "
      f"{list(mass_FxNxH.shape)}"
    )
  for name, array in arrays.items():
    _check_finite(array, f"{path}: {site}/{name}")
  known = mass_FxNxH[~np.isnan(mass_FxNxH)]
  # bfloat16 weights may add up to a little over 1.
  least = known.min(initial=0)
  greatest = known.max(initial=0)
  if least < 0 or greatest > 1.01:
    extent = f"{known.min():g} to {known.max():g}"
    raise UserError(f"{path}: {site}/mass: expected shares from 0 to 1, got {extent}")
  return arrays


def _check_finite(array_FxNxH: np.ndarray, context: str) -> None:
  unknown_F = np.isnan(array_FxNxH).all(axis=(1, 2))
  finite_F = np.isfinite(array_FxNxH).all(axis=(1, 2))
  good_F = finite_F | unknown_F
  if not good_F.all():
    index = int(np.argmin(good_F))
    raise UserError(
      f"{context}: expected finite numbers, or NaN in all layers and heads of a fact; fact "
      f"{index} has others"
    )


def _fact_rows(texts: Sequence[np.ndarray], popularity_F: np.ndarray) -> Iterator[dict[str, Any]]:
  """Yields the facts as predictions that say nothing, so that they are matched as those are."""
  arrays = (*texts, popularity_F)
  columns = [array.tolist() for array in arrays]
  for subject, relation, gold, popularity in zip(*columns):
    known_popularity = None if np.isnan(popularity) else popularity
    yield {
      "subject": subject,
      "relation": relation,
      "object": gold,
      "prediction": "",
      "popularity": known_popularity,
    }
