"""Canonical rows in batches, as columns: what the writers of graphs take, and triples.jsonl itself.

A writer goes through a million rows several times as fast by columns as by dicts. All rows of a
batch have one provenance, so that it is looked at once. Rows are checked (canonical.py) by columns,
too; those of a batch that does not pass are checked one by one, which names the row.
"""

import dataclasses
import functools
import itertools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from factshock.knowledge_graph import canonical, nodes
from factshock.knowledge_graph.canonical import CanonicalRow

ROWS = 1 << 10  # rows of a batch, at most: few enough for a processor's cache
_PROVENANCE = ("threshold", "model", "checkpoint", "mixing_weights", "calibration", "run")
_REQUIRED = ("subject", "relation", "object", "confidence", "score", "rank", "accepted")
_OPTIONAL = ("subject_id", "relation_label", "object_id", "flags")
_COLUMNS = _REQUIRED + _OPTIONAL
_KEYS = frozenset(canonical.KEYS)
_pick_required = operator.itemgetter(*_REQUIRED, *_PROVENANCE)
_STR = frozenset([str])
_STR_OR_NONE = frozenset([str, type(None)])
_NUMBER = frozenset([float, int])
_NUMBER_OR_NONE = frozenset([float, int, type(None)])
_RANK = frozenset([int, type(None)])
_BOOL = frozenset([bool])

encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
quote = json.encoder.encode_basestring  # a text as JSON

T = TypeVar("T")


class Provenance(NamedTuple):
  """Values that rows of one run share; canonical.py says what each holds."""

  threshold: float | None
  model: str
  checkpoint: str | None
  mixing_weights: list[float] | None
  calibration: str
  run: str


@dataclasses.dataclass(frozen=True)
class Batch:
  """Canonical rows as columns, each a sequence of one value a row; None where it is not given.

  Attributes:
    further: keys that canonical rows do not have, and their values; None where no row has any.
    provenance: of all rows.
  """

  subject: Sequence[str]
  subject_id: Sequence[str | None]
  relation: Sequence[str]
  relation_label: Sequence[str | None]
  object: Sequence[str]
  object_id: Sequence[str | None]
  confidence: Sequence[float]
  score: Sequence[float | None]
  rank: Sequence[int | None]
  accepted: Sequence[bool]
  flags: Sequence[list[str] | None]
  provenance: Provenance
  further: Sequence[Mapping[str, Any]] | None = None

  def __len__(self) -> int:
    return len(self.subject)

  @functools.cached_property
  def edges(self) -> "Edges":
    """Returns the accepted rows with the keys of their nodes."""

    def pick(column: Sequence[T]) -> list[T]:
      return list(itertools.compress(column, self.accepted))

    subject = pick(self.subject)
    object_ = pick(self.object)
    return Edges(
      subject=subject,
      relation=pick(self.relation),
      relation_label=pick(self.relation_label),
      object=object_,
      confidence=pick(self.confidence),
      score=pick(self.score),
      rank=pick(self.rank),
      flags=pick(self.flags),
      ends=nodes.keys((subject, pick(self.subject_id)), (object_, pick(self.object_id))),
      run=self.provenance.run,
    )


@dataclasses.dataclass(frozen=True)
class Edges:
  """Accepted rows as columns; `ends` are the nodes of their subjects and objects."""

  subject: Sequence[str]
  relation: Sequence[str]
  relation_label: Sequence[str | None]
  object: Sequence[str]
  confidence: Sequence[float]
  score: Sequence[float | None]
  rank: Sequence[int | None]
  flags: Sequence[list[str] | None]
  ends: nodes.Ends
  run: str

  def __len__(self) -> int:
    return len(self.subject)


# Adds rows to what a writer writes.
Add: TypeAlias = Callable[[Batch], None]


def of_rows(rows: Iterable[CanonicalRow], context: str) -> Iterator[Batch]:
  """Yields rows in batches.

  Args:
    rows: each is checked.
    context: begins the message about a row that is not canonical, before its number from 1.

  Raises:
    UserError: a row is not canonical.
  """
  return _of_numbered_rows(enumerate(rows, 1), f"{context}: row ")


def read(path: str) -> Iterator[Batch]:
  """Yields the rows of a file of canonical rows in batches; blank lines are passed over.

  Raises:
    UserError: as canonical.read.
  """
  return _of_numbered_rows(canonical.parse(path), f"{path}:")


def _of_numbered_rows(
  numbered: Iterable[tuple[int, CanonicalRow]],
  prefix: str,
) -> Iterator[Batch]:
  """Yields rows in batches; messages about a row begin with the prefix and its number."""
  pending = _Pending(prefix, ())
  for number, row in numbered:
    try:
      required = _pick_required(row)
    except KeyError:
      pending.check()
      canonical.check(row, f"{prefix}{number}")  # some may be missing, as they may be null
      required = tuple(map(row.get, (*_REQUIRED, *_PROVENANCE)))
    provenance = required[len(_REQUIRED) :]
    if provenance != pending.provenance or len(pending.rows) >= ROWS:
      yield from pending.batches()
      pending = _Pending(prefix, provenance)
    pending.add(number, required[: len(_REQUIRED)], row)
  yield from pending.batches()


class _Pending:
  """Rows of one provenance that are to be a batch."""

  def __init__(self, prefix: str, provenance: tuple[Any, ...]) -> None:
    self.provenance = provenance
    self.rows: list[tuple[Any, ...]] = []  # their values of _COLUMNS
    self._prefix = prefix
    self._numbers: list[int] = []
    self._further: dict[int, dict[str, Any]] = {}  # what few rows have, by their place

  def add(
    self,
    number: int,
    required: tuple[Any, ...],
    row: CanonicalRow,
  ) -> None:
    """Adds a row, with its values of _REQUIRED."""
    if not row.keys() <= _KEYS:
      self._further[len(self.rows)] = {key: value for key, value in row.items() if key not in _KEYS}
    get = row.get
    optional = get("subject_id"), get("relation_label"), get("object_id"), get("flags")
    self.rows.append(required + optional)
    self._numbers.append(number)

  def batches(self) -> list[Batch]:
    """Returns the rows as a batch, checked; no batch where there are none."""
    if not self.rows:
      return []
    batch = self._batch()
    if not _is_right(batch):
      self.check()
    return [batch]

  def check(self) -> None:
    """Raises a UserError where a row is not canonical."""
    for number, row in zip(self._numbers, self.rows):
      named: dict[str, Any] = dict(zip(_COLUMNS + _PROVENANCE, row + self.provenance))
      canonical.check(named, f"{self._prefix}{number}")

  def _batch(self) -> Batch:
    """Returns the rows as a batch."""
    columns: dict[str, Any] = dict(zip(_COLUMNS, zip(*self.rows)))
    if self._further:
      columns["further"] = [self._further.get(place, {}) for place in range(len(self.rows))]
    return Batch(**columns, provenance=Provenance(*self.provenance))


def check(
  batch: Batch,
  context: str,
  first: int,
) -> None:
  """Checks that all rows of a batch are canonical.

  Args:
    batch: the rows.
    context: begins the message, before the row's number.
    first: the number of the first row.

  Raises:
    UserError: one is not.
  """
  if _is_right(batch):
    return
  columns = [getattr(batch, name) for name in _COLUMNS]
  for number, values in enumerate(zip(*columns), first):
    row = dict(zip(_COLUMNS, values)) | batch.provenance._asdict()
    canonical.check(row, f"{context}: row {number}")


def _is_right(batch: Batch) -> bool:
  """Returns whether rows are certainly right; `canonical.check` says what is wrong with one."""
  return (
    _are_texts(batch.subject)
    and _are_texts(batch.relation)
    and set(map(type, batch.object)) <= _STR
    and all(object_ or not accepted for object_, accepted in zip(batch.object, batch.accepted))
    and all(_are_texts(getattr(batch, name), or_none=True) for name in canonical.OPTIONAL_TEXTS)
    and _are_numbers(batch)
    and set(map(type, batch.accepted)) <= _BOOL
    and all(flags is None or canonical.is_right("flags", flags) for flags in batch.flags)
    and all(map(canonical.is_right, _PROVENANCE, batch.provenance))
  )


def _are_texts(column: Sequence[Any], or_none: bool = False) -> bool:
  """Returns whether all values of a column are texts that are not empty, or None where allowed."""
  if or_none:
    return set(map(type, column)) <= _STR_OR_NONE and "" not in column
  return set(map(type, column)) <= _STR and all(column)


def _are_numbers(batch: Batch) -> bool:
  """Returns whether the numbers of all rows are right."""
  return (
    set(map(type, batch.confidence)) <= _NUMBER
    and all(0 <= value <= 1 for value in batch.confidence)
    and set(map(type, batch.score)) <= _NUMBER_OR_NONE
    and all(value is None or value - value == 0 for value in batch.score)  # finite
    and set(map(type, batch.rank)) <= _RANK
    and all(value is None or value >= 1 for value in batch.rank)
  )


# Members of rows of triples.jsonl; what may be missing comes with the comma before it.
_LINE = (
  '{"subject": %s%s, "relation": %s%s, "object": %s%s, "confidence": %s, "score": %s, '
  '"rank": %s, "accepted": %s, %s%s%s}\n'
)


def json_lines(batch: Batch) -> str:
  """Returns the lines of triples.jsonl: keys in canonical order, optional ones where given."""
  rows = zip(
    map(quote, batch.subject),
    _members("subject_id", batch.subject_id, quote),
    map(quote, batch.relation),
    _members("relation_label", batch.relation_label, quote),
    map(quote, batch.object),
    _members("object_id", batch.object_id, quote),
    map(repr, batch.confidence),
    number_texts(batch.score, "null"),
    number_texts(batch.rank, "null"),
    ["true" if accepted else "false" for accepted in batch.accepted],
    itertools.repeat(encode(batch.provenance._asdict())[1:-1]),
    _members("flags", batch.flags, encode),
    _further_members(batch),
  )
  return "".join([_LINE % row for row in rows])


def number_texts(column: Iterable[float | None], none: str) -> list[str]:
  """Returns numbers as texts, None as `none`."""
  return [none if value is None else repr(value) for value in column]


def _members(
  key: str,
  column: Iterable[Any],
  encode_value: Callable[[Any], str],
) -> list[str]:
  """Returns a member of a JSON object, with the comma before it, for each value that is given."""
  return ["" if value is None else f', "{key}": {encode_value(value)}' for value in column]


def _further_members(batch: Batch) -> Iterable[str]:
  """Returns the members of JSON objects that are no canonical keys, with commas before them."""
  if batch.further is None:
    return itertools.repeat("")
  return [f", {encode(members)[1:-1]}" if members else "" for members in batch.further]
