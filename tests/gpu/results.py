"""What a measurement gives, how it is kept in gpu_check.json, and its tables for gpu_check.md."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from factshock.runtime import files

OURS = "factshock"
NO_TIME = "no time was left"
CANNOT_RUN = "cannot run here: "  # before what is missing: data, or a config
_SPEED_COLUMNS = (
  "what",
  "side",
  "shape",
  "ms, median",
  "least",
  "a second",
  "TFLOP; GB moved",
  "floors, ms: FLOPs; bytes",
  "limited by",
  "share of peak FLOP/s; of bytes/s",
  "time of one, over ours",
  "peak GB",
  "s to the first; of it XLA compiling",
  "compiled while timed",
)


@dataclasses.dataclass(frozen=True)
class Peaks:
  """Holds what a device does at most: dense bfloat16 FLOP/s, and bytes/s of its memory."""

  flops: float
  bytes: float


@dataclasses.dataclass(frozen=True)
class Speed:
  """Holds how fast one side of a comparison is.

  Attributes:
    seconds: median of the timed repeats.
    least: the fastest of them.
    first: seconds from nothing (weights made, programs compiled) to the first result.
    shape: of the batch, as words.
    amount: how much one repeat does, in `unit`.
    unit: what is counted, such as "tokens".
    flops: FLOPs of the matrix products that one repeat needs, none made twice.
    bytes: bytes that one repeat must read and write in the device's memory at least.
    gigabytes: peak of the device's memory, 0 where it is not known.
    compiling: seconds of `first` in which XLA compiled; None where it is not counted.
    compiled: programs compiled while repeats were timed; None where it is not counted.
    note: what else is worth saying.
  """

  seconds: float
  least: float
  first: float
  shape: str
  amount: float
  unit: str
  flops: float
  bytes: float
  gigabytes: float = 0.0
  compiling: float | None = None
  compiled: int | None = None
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
  """Holds one thing that must be near its reference.

  Attributes:
    what: what is compared with what.
    distance: how far it is, relative unless `what` says otherwise; NaN and infinity never pass.
    limit: how far it may be.
  """

  what: str
  distance: float
  limit: float

  @property
  def passed(self) -> bool:
    """Returns whether the distance is at most the limit."""
    return self.distance <= self.limit


@dataclasses.dataclass(frozen=True)
class Checked:
  """Holds a part's checks, and what of it this device cannot run, by name."""

  checks: list[Check]
  left_out: list[str]


@dataclasses.dataclass(frozen=True)
class Measurement:
  """Names one measurement: a process of its own.

  Attributes:
    part: module of `gpu.parts`.
    name: what is measured.
    side: by what: OURS or a peer.
    limit: seconds after which it is stopped.
    environment: variables for its process, such as flags of XLA.
  """

  part: str
  name: str
  side: str = OURS
  limit: float = 90.0
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def key(self) -> str:
    """Returns its name in gpu_check.json."""
    return f"{self.part}: {self.name}: {self.side}"


@dataclasses.dataclass(frozen=True)
class Goal:
  """Holds what is aimed at.

  Attributes:
    part: of the measurement.
    name: of the measurement.
    least: MFU from 0 to 1, or how many times as fast as `than`.
    than: a peer's side; None for MFU.
  """

  part: str
  name: str
  least: float
  than: str | None = None


class Description(NamedTuple):
  """Holds what a part says of itself.

  Attributes:
    text: its docstring.
    to_try: the next thing to try by what limits a measurement: "FLOPs", "bytes" or "neither".
  """

  text: str
  to_try: Mapping[str, str]


class Outcome(TypedDict, total=False):
  """Holds what a measurement's process printed: one of the three, and when and how it ran.

  `left_out` names the checks that the device cannot run.
  """

  speed: dict[str, Any]
  checks: list[dict[str, Any]]
  left_out: list[str]
  error: str
  revision: str
  took: float


class Document(TypedDict):
  """Holds gpu_check.json: on what was measured, and the outcomes by key."""

  about: dict[str, Any]
  outcomes: dict[str, Outcome]


def read(path: str) -> Document | None:
  """Returns what an earlier call measured, or None."""
  if not os.path.exists(path):
    return None
  with open(path, encoding="utf-8") as file:
    return json.load(file)


def write(path: str, document: Document) -> None:
  """Writes gpu_check.json, whole or not at all."""
  with files.atomic_write(path) as file:
    json.dump(document, file, indent=1)


def is_measured(outcome: Outcome | None) -> bool:
  """Returns whether there is a result that need not be measured again."""
  return outcome is not None and "error" not in outcome


def failures(
  plan: Sequence[Measurement], outcomes: Mapping[str, Outcome], tiny: bool = False
) -> list[str]:
  """Returns what failed, by key.

  What had no time is no failure, and what cannot run here neither, but for tiny shapes: they run
  anywhere.
  """
  found = []
  for measurement in plan:
    outcome = outcomes.get(measurement.key, {"error": NO_TIME})
    error = outcome.get("error")
    if error is not None and error != NO_TIME and (tiny or not error.startswith(CANNOT_RUN)):
      found.append(f"{measurement.key}: {error}")
    far = [check for check in _checks(outcome) if not check.passed]
    found.extend(f"{measurement.key}: {check.what}" for check in far)
  return found


def markdown(
  document: Document,
  plan: Sequence[Measurement],
  descriptions: Mapping[str, Description],
  goals: Sequence[Goal],
  peaks: Peaks | None,
) -> str:
  """Returns gpu_check.md: goals, then a section a part, then what was not measured."""
  outcomes = document["outcomes"]
  about = [f"- {name}: {value}" for name, value in document["about"].items()]
  pieces = ["# Check on a GPU", "\n".join(about)]
  if document["about"].get("tiny"):
    pieces.append("**Tiny shapes: this shows that the script works, and measures nothing.**")
  pieces.append(_goals_text(goals, outcomes, peaks))
  for part in dict.fromkeys(measurement.part for measurement in plan):
    of_part = [measurement for measurement in plan if measurement.part == part]
    pieces += [f"## {part}", descriptions[part].text]
    pieces += _part_tables(of_part, outcomes, peaks)
    pieces.append(_left_out_text(of_part, outcomes))
    pieces.append(_next_text(of_part, outcomes, descriptions[part].to_try, peaks))
  pieces.append(_missing_text(plan, outcomes))
  return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _part_tables(
  plan: Sequence[Measurement], outcomes: Mapping[str, Outcome], peaks: Peaks | None
) -> list[str]:
  """Returns the tables of a part: that of speeds and that of checks, where there are any."""
  speeds: list[list[str]] = []
  checks: list[list[str]] = []
  for measurement in plan:
    outcome = outcomes.get(measurement.key, {"error": NO_TIME})
    speed = _speed(outcome)
    if speed is not None:
      ours = _speed(outcomes.get(dataclasses.replace(measurement, side=OURS).key, {}))
      speeds.append(_speed_row(measurement, speed, ours, peaks))
    for check in _checks(outcome):
      checks.append(_check_row(measurement, check))
  tables = []
  if speeds:
    tables.append(_table(_SPEED_COLUMNS, speeds))
  if checks:
    tables.append(_table(("what", "compared", "distance", "at most", "passed"), checks))
  return tables


def _speed_row(
  measurement: Measurement, speed: Speed, ours: Speed | None, peaks: Peaks | None
) -> list[str]:
  """Returns a line of the table of speeds."""
  ratio = ""
  if ours is not None:
    ratio = f"{speed.seconds / speed.amount / (ours.seconds / ours.amount):.2f}"
  floors, limit, shares = _roofline(speed, peaks)
  note = f" ({speed.note})" if speed.note else ""
  return [
    measurement.name,
    measurement.side + note,
    speed.shape,
    f"{1e3 * speed.seconds:,.1f}",
    f"{1e3 * speed.least:,.1f}",
    f"{rate_of(speed)} {speed.unit}",
    f"{speed.flops / 1e12:.3g}; {speed.bytes / 1e9:.3g}",
    floors,
    limit,
    shares,
    ratio,
    f"{speed.gigabytes:.1f}" if speed.gigabytes else "",
    f"{speed.first:.1f}" + ("" if speed.compiling is None else f"; {speed.compiling:.1f}"),
    "" if speed.compiled is None else str(speed.compiled),
  ]


def rate_of(speed: Speed) -> str:
  """Returns how much is done a second, as text."""
  rate = speed.amount / speed.seconds
  return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _roofline(speed: Speed, peaks: Peaks | None) -> tuple[str, str, str]:
  """Returns the floors, what limits, and the shares of both peaks reached."""
  if peaks is None:
    return "", "peak not known", ""
  by_flops = speed.flops / peaks.flops
  by_bytes = speed.bytes / peaks.bytes
  floors = f"{1e3 * by_flops:.2f}; {1e3 * by_bytes:.2f}"
  shares = f"{by_flops / speed.seconds:.1%}; {by_bytes / speed.seconds:.1%}"
  return floors, limited_by(speed, peaks), shares


def limited_by(speed: Speed, peaks: Peaks) -> str:
  """Returns "FLOPs" or "bytes", or "neither" over three times the higher floor.

  Then launches, the host, small products or work that is not counted take the time.
  """
  by_flops = speed.flops / peaks.flops
  by_bytes = speed.bytes / peaks.bytes
  if speed.seconds > 3 * max(by_flops, by_bytes):
    return "neither"
  return "FLOPs" if by_flops > by_bytes else "bytes"


def _next_text(
  plan: Sequence[Measurement],
  outcomes: Mapping[str, Outcome],
  to_try: Mapping[str, str],
  peaks: Peaks | None,
) -> str:
  """Returns what to try next, for each limit that a measurement of ours has run into."""
  names: dict[str, list[str]] = {}
  for measurement in plan:
    speed = _speed(outcomes.get(measurement.key, {}))
    if measurement.side == OURS and speed is not None and peaks is not None:
      names.setdefault(limited_by(speed, peaks), []).append(measurement.name)
  lines = [
    f"- {', '.join(of_limit)} (limited by {limit}): {to_try[limit]}"
    for limit, of_limit in names.items()
    if limit in to_try
  ]
  return "To try next:\n\n" + "\n".join(lines) if lines else ""


def _check_row(measurement: Measurement, check: Check) -> list[str]:
  """Returns a line of the table of checks."""
  passed = "yes" if check.passed else "**NO**"
  return [measurement.name, check.what, f"{check.distance:.3g}", f"{check.limit:.3g}", passed]


def _goals_text(goals: Sequence[Goal], outcomes: Mapping[str, Outcome], peaks: Peaks | None) -> str:
  """Returns whether each goal is met, missed, or open because a number is missing."""
  lines = [f"- {_goal_text(goal, outcomes, peaks)}" for goal in goals]
  counts = [speed.compiled for speed in map(_speed, outcomes.values()) if speed is not None]
  counted = [count for count in counts if count is not None]
  if counted:
    verdict = "met" if not any(counted) else "missed"
    lines.append(f"- no recompilation while timed: {sum(counted)} programs: **{verdict}**")
  return "## Goals\n\n" + "\n".join(lines)


def _goal_text(goal: Goal, outcomes: Mapping[str, Outcome], peaks: Peaks | None) -> str:
  """Returns a goal and what was reached."""
  ours = _speed(outcomes.get(Measurement(goal.part, goal.name).key, {}))
  if goal.than is None:
    words = f"{goal.part}, {goal.name}: at least {goal.least:.0%} MFU"
    if ours is None or peaks is None:
      return f"{words}: open"
    reached = ours.flops / ours.seconds / peaks.flops
    return f"{words}: {reached:.1%}, **{'met' if reached >= goal.least else 'missed'}**"
  words = f"{goal.part}, {goal.name}: at least {goal.least:g} times as fast as {goal.than}"
  theirs = _speed(outcomes.get(Measurement(goal.part, goal.name, goal.than).key, {}))
  if ours is None or theirs is None:
    return f"{words}: open"
  reached = theirs.seconds / theirs.amount / (ours.seconds / ours.amount)
  return f"{words}: {reached:.2f}, **{'met' if reached >= goal.least else 'missed'}**"


def _left_out_text(plan: Sequence[Measurement], outcomes: Mapping[str, Outcome]) -> str:
  """Returns which checks of a part the device cannot run."""
  lines = []
  for measurement in plan:
    left_out = outcomes.get(measurement.key, {}).get("left_out", [])
    lines.extend(f"- {measurement.name}: {line}" for line in left_out)
  return "Left out, as this device cannot run it:\n\n" + "\n".join(lines) if lines else ""


def _missing_text(plan: Sequence[Measurement], outcomes: Mapping[str, Outcome]) -> str:
  """Returns what there is no number of, and why."""
  lines = []
  for measurement in plan:
    outcome = outcomes.get(measurement.key, {"error": NO_TIME})
    if "error" in outcome:
      lines.append(f"- {measurement.key}: {outcome['error']}")
  return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a Markdown table."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _speed(outcome: Outcome) -> Speed | None:
  """Returns the speed of an outcome that has one."""
  return Speed(**outcome["speed"]) if "speed" in outcome else None


def _checks(outcome: Outcome) -> list[Check]:
  """Returns the checks of an outcome."""
  return [Check(**check) for check in outcome.get("checks", [])]
