"""Points: what a predictions file is of, an arm and where on its curve.

Labels of points are made and read here alone. The label of a point is the name of its file and its
key in diagnosis.json: "finetune@25" (after 25 steps), "weight_mixing@0.3" (at alpha .3), "finetune"
(the whole arm: its last step, or the value chosen on development facts) and "finetune_early" (the
step chosen on development facts).
"""

import dataclasses
import functools
import math
from collections.abc import Iterable

_AT = "@"
_EARLY = "_early"

# What other files of a workdir are called where an arm's name would stand.
RESERVED = {
  "pretrained": "the folder of the pretrained model's checkpoints",
  "preparing": "the lock of preparing facts and text",
}


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Point:
  """An arm, alone, at one value of its curve, or stopped early.

  Attributes:
    arm: the arm's name.
    value: the step (a whole number), alpha or tau, to the six digits that a label has; None for
      the arm as a whole.
    is_early: True for the arm stopped at the step that is best on development facts.
  """

  arm: str
  value: float | None = None
  is_early: bool = False

  def __post_init__(self) -> None:
    if self.value is not None and self.is_early:
      raise ValueError(f"a point of {self.arm!r} is at a value or stopped early, not both")
    if isinstance(self.value, float):
      object.__setattr__(self, "value", float(f"{self.value:g}"))

  @classmethod
  def parse(cls, label: str) -> "Point":
    """Returns the point of a label.

    A label whose end is no number is taken whole as an arm's name, as in files of other programs.
    """
    stem, at, end = label.rpartition(_AT)
    value = _number(end) if at and stem else None
    if value is not None:
      point = cls(stem, value)
      return point if point.label == label else cls(label)
    stem = label.removesuffix(_EARLY)
    if stem and stem != label:
      return cls(stem, is_early=True)
    return cls(label)

  @property
  def label(self) -> str:
    """Returns the label, as files and diagnosis.json have it."""
    if self.is_early:
      return self.arm + _EARLY
    if self.value is None:
      return self.arm
    return f"{self.arm}{_AT}{self.printed_value}"

  @property
  def printed_value(self) -> str:
    """Returns the value as a label has it: "25", "0.3"; "" for a point without one."""
    if self.value is None:
      return ""
    return str(self.value) if isinstance(self.value, int) else f"{self.value:g}"

  @property
  def whole(self) -> "Point":
    """Returns the arm as a whole."""
    return Point(self.arm)

  @property
  def early(self) -> "Point":
    """Returns the arm stopped early."""
    return Point(self.arm, is_early=True)

  def __str__(self) -> str:
    return self.label

  def __lt__(self, other: "Point") -> bool:
    return self._sort_key() < other._sort_key()

  def _sort_key(self) -> tuple[str, float, bool]:
    """Returns what points are sorted by: the arm, then its values upwards, then the whole arm."""
    return self.arm, float("inf") if self.value is None else self.value, self.is_early


def _number(text: str) -> int | float | None:
  if text.isdecimal():
    return int(text)
  try:
    value = float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) else None


def split(label: str) -> tuple[str, str]:
  """Returns a label's arm and what stands behind its "@", "" where nothing does.

  Labels of other programs are split too, whatever stands behind the "@".
  """
  arm, _, end = label.partition(_AT)
  return arm, end


def is_on_curve(label: str) -> bool:
  """Returns whether a label is of one value of an arm's curve."""
  return _AT in label


def with_value(label: str, value: object) -> str:
  """Returns a label with "@value" behind it, unless it ends so already."""
  printed = str(value)
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    printed = Point(label, value).printed_value
  suffix = _AT + printed
  return label if label.endswith(suffix) else label + suffix


def name_problem(name: str) -> str | None:
  """Returns why an arm cannot have a name, or None where it can.

  Refused is what could be taken for a point of another arm, for a path, or for another file.
  """
  if not name:
    return "a name is needed, as files are called by it"
  if _AT in name:
    return f"{_AT!r} stands between an arm and a value in labels of points"
  if name.endswith(_EARLY):
    stem = name.removesuffix(_EARLY)
    return f"a name that ends in {_EARLY!r} is the label of {stem!r} stopped early"
  if name in RESERVED:
    return f"is the name of {RESERVED[name]}"
  if "/" in name or "\\" in name:
    return "'/' and '\\' part folders in paths, and files are called by the name"
  if name.startswith("."):
    return "a name that begins with '.' is a hidden file or a folder above"
  if any(character.isspace() or not character.isprintable() for character in name):
    return "files are called by the name, so that it may have no space or control character"
  return None


def name_problems(names: Iterable[str]) -> dict[str, str]:
  """Returns why arms cannot have their names, by name.

  Names that differ from another's in case alone are among them.
  """
  problems: dict[str, str] = {}
  spellings: dict[str, str] = {}
  for name in names:
    problem = name_problem(name)
    other = spellings.setdefault(name.casefold(), name)
    if problem is None and other != name:
      problem = f"differs from {other!r} in case alone, and some file systems take these for one"
    if problem is not None:
      problems[name] = problem
  return problems
