r"""Measures on one GPU, in one call of a few minutes, what this project claims or hopes for.

  bash launch/gpu_check.sh [--minutes=9] [--output=runs/gpu_check] [--only=parity,generation]
  bash launch/gpu_check.sh --tiny        # small shapes on any device: shows that the script works

Each measurement is a process of its own with its own time limit; the most telling come first, and
what there is no time left for is named. After each, all that is known stands in
OUTPUT/gpu_check.json and OUTPUT/gpu_check.md; what the processes print is in OUTPUT/gpu_check.log.
The same command again goes on with what is missing or failed; another --output starts anew.

Exit codes: 0; 1 where a measurement failed or a check did not pass; 2 where JAX sees no GPU. What
lacks data or a config file is named and is no failure.
"""

import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from factshock.runtime import console, provenance
from factshock.runtime.errors import UserError
from gpu import machine, plan, results
from gpu.results import Description, Document, Measurement, Outcome

# Seconds: kept for writing, and with less than which nothing more is started.
_RESERVE = 5.0
_LEAST = 15.0
_ABOUT = "about"


def define_flags() -> None:
  """Defines the flags; called only where this runs as a program."""
  flags.DEFINE_bool("tiny", False, "Small shapes, on any device.")
  flags.DEFINE_float("minutes", 9.0, "For all measurements together.", lower_bound=0.0)
  flags.DEFINE_string("output", os.path.join("runs", "gpu_check"), "Folder of the results.")
  flags.DEFINE_list("only", [], f"Parts to run, of {', '.join(plan.PARTS)}; default: all.")
  flags.DEFINE_string("worker", None, "Used by the script itself: what a fresh process measures.")


def main(argv: Sequence[str]) -> int:
  """Runs all measurements for which there is time, or the one that a worker is told.

  Args:
    argv: the command line; the flags hold what it says.

  Returns:
    The exit code.

  Raises:
    UserError: no GPU, an unknown part, or results of another device in the folder.
  """
  del argv
  values = flags.FLAGS
  if values.worker:
    print(json.dumps(_work(values.worker, values.tiny)))
    return 0
  deadline = time.monotonic() + 60 * values.minutes - _RESERVE
  chosen = _chosen(values.only)
  os.makedirs(values.output, exist_ok=True)
  run = _Run(values.output, values.tiny, deadline)
  document = run.start()
  run.measure_all(chosen, document)
  failed = results.failures(chosen, document["outcomes"], values.tiny)
  missing = [one.key for one in chosen if one.key not in document["outcomes"]]
  for line in failed:
    print(f"failed: {line}")
  if missing:
    print(f"no time was left for {len(missing)} of {len(chosen)}: " + ", ".join(missing))
  print(f"results: {run.path('md')}")
  return 1 if failed else 0


def _chosen(only: Sequence[str]) -> list[Measurement]:
  """Returns the measurements of the parts named, in the plan's order."""
  for part in only:
    if part not in plan.PARTS:
      raise UserError(f"--only={part}: expected parts of {', '.join(plan.PARTS)}")
  return [one for one in plan.ORDER if not only or one.part in only]


@dataclasses.dataclass(frozen=True)
class _Run:
  """Holds what is the same for all measurements of a call."""

  output: str
  tiny: bool
  deadline: float

  def path(self, ending: str) -> str:
    """Returns the path of the results with an ending: json, md or log."""
    return os.path.join(self.output, f"gpu_check.{ending}")

  def left(self) -> float:
    """Returns the seconds left for measurements."""
    return self.deadline - time.monotonic()

  def start(self) -> Document:
    """Returns the results of an earlier call, or a new document, once the device is known.

    Raises:
      UserError: no GPU, or the folder holds results of another device.
    """
    outcome = self._finish(self._begin(_ABOUT, {}), 120.0)
    if "error" in outcome:
      raise UserError(f"the device cannot be asked: {outcome['error']} ({self.path('log')})")
    about: dict[str, Any] = dict(outcome)
    if about["platform"] != "gpu" and not self.tiny:
      raise UserError(
        f"expected a GPU that JAX sees, got {about['device']}; install the extra "
        "(pip install -e .[gpu]), or try the script with --tiny"
      )
    print(f"{about['device']}, driver: {about['driver']}; {about['versions']}", flush=True)
    document = results.read(self.path("json"))
    if document is None:
      return {"about": about, "outcomes": {}}
    for name in ("device", "tiny", "versions"):
      if document["about"][name] != about[name]:
        raise UserError(
          f"{self.path('json')}: measured with {name} {document['about'][name]}, and here it is "
          f"{about[name]}; give another --output"
        )
    return document

  def measure_all(self, chosen: Sequence[Measurement], document: Document) -> None:
    """Measures what has no result yet, failures of an earlier call last, and writes after each."""
    outcomes = document["outcomes"]
    waiting = [one for one in chosen if not results.is_measured(outcomes.get(one.key))]
    waiting.sort(key=lambda one: one.key in outcomes)
    following = self._begin_measurement(waiting[0]) if waiting else None
    try:
      for index, measurement in enumerate(waiting):
        process = following
        following = None
        if process is None or self.left() < _LEAST:
          _end(process)
          break
        # The next one loads its modules meanwhile, and waits without touching the device.
        if index + 1 < len(waiting):
          following = self._begin_measurement(waiting[index + 1])
        began = time.monotonic()
        outcome = self._finish(process, min(measurement.limit, self.left()))
        outcome["took"] = round(time.monotonic() - began, 1)
        outcome["revision"] = provenance.revision()
        outcomes[measurement.key] = outcome
        self._write(document)
        print(
          f"{index + 1}/{len(waiting)} {measurement.key}: {_brief(outcome)}; {self.left():.0f} s "
          "left",
          flush=True,
        )
    finally:
      _end(following)
    self._write(document)

  def _write(self, document: Document) -> None:
    """Writes gpu_check.json and gpu_check.md."""
    results.write(self.path("json"), document)
    text = results.markdown(
      document,
      plan.ORDER,
      {part: _description(part) for part in plan.PARTS},
      plan.GOALS,
      machine.peaks_of(document["about"]["device"]),
    )
    with open(self.path("md"), "w", encoding="utf-8") as file:
      file.write(text)

  def _begin_measurement(self, measurement: Measurement) -> subprocess.Popen[str]:
    """Starts a measurement's process, which waits for a line."""
    environment = dict(measurement.environment)
    if measurement.side != results.OURS:
      # JAX only counts FLOPs there, and must leave the device to the peer.
      environment["JAX_PLATFORMS"] = "cpu"
    return self._begin(measurement.key, environment)

  def _begin(self, key: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Starts a worker, which waits for a line."""
    command = [sys.executable, "-m", "gpu.check", f"--worker={key}", f"--tiny={self.tiny}"]
    with open(self.path("log"), "a", encoding="utf-8") as log:
      # A session of its own, so that the compilers it starts end with it.
      return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
        env={**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": ".92", **environment},
      )

  def _finish(self, process: subprocess.Popen[str], limit: float) -> Outcome:
    """Returns what a worker prints, or an error where it fails or takes too long."""
    try:
      printed = process.communicate("go\n", timeout=limit)[0].splitlines()
    except subprocess.TimeoutExpired:
      return {"error": f"stopped after {limit:.0f} s"}
    finally:
      _end(process)
    # A UserError: the part says what it lacks.
    if process.returncode == 2:
      return {"error": results.CANNOT_RUN + _last_line(self.path("log"))}
    if process.returncode or not printed:
      return {"error": f"exit code {process.returncode}: {_last_line(self.path('log'))}"}
    return json.loads(printed[-1])


def _work(key: str, tiny: bool) -> Any:
  """Does a worker's measurement, once a line on stdin says so; returns what it prints."""
  if key == _ABOUT:
    sys.stdin.readline()
    return machine.about(tiny)
  measurement = next(one for one in plan.ORDER if one.key == key)
  module = importlib.import_module(f"gpu.parts.{measurement.part}")
  if measurement.side != results.OURS:
    importlib.import_module("transformers")
  sys.stdin.readline()
  print(f"--- {key}", file=sys.stderr, flush=True)
  found = module.measure(measurement.name, measurement.side, tiny)
  if isinstance(found, results.Speed):
    return {"speed": dataclasses.asdict(found)}
  if isinstance(found, results.Checked):
    return dataclasses.asdict(found)
  return {"checks": [dataclasses.asdict(check) for check in found]}


def _description(part: str) -> Description:
  """Returns what a part says of itself."""
  module = importlib.import_module(f"gpu.parts.{part}")
  return Description(inspect.getdoc(module) or "", getattr(module, "TO_TRY", {}))


def _brief(outcome: Outcome) -> str:
  """Returns an outcome in a few words."""
  error = outcome.get("error")
  if error is not None:
    return error if error.startswith(results.CANNOT_RUN) else f"FAILED: {error}"
  if "speed" in outcome:
    speed = results.Speed(**outcome["speed"])
    return f"{1e3 * speed.seconds:,.1f} ms, {results.rate_of(speed)} {speed.unit} a second"
  checks = [results.Check(**check) for check in outcome["checks"]]
  return f"{sum(check.passed for check in checks)} of {len(checks)} checks passed"


def _end(process: subprocess.Popen[str] | None) -> None:
  """Ends a worker and all that it started."""
  if process is None:
    return
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def _last_line(path: str) -> str:
  """Returns the last line of the log that says something."""
  with open(path, encoding="utf-8", errors="replace") as file:
    lines = [line.strip() for line in file if line.strip()]
  return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
  define_flags()
  console.run(main)
