"""The device, its peaks, the versions, and how a side is timed on it."""

import contextlib
import gc
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from factshock.training import flops
from gpu.results import Peaks

REPEATS = 8
# Bytes/s of the device's memory by NVIDIA's data sheets; the first pattern that fits counts.
_BYTES_A_SECOND = (
  (r"H200", 4.8e12),
  (r"H100 PCIe", 2.0e12),
  (r"H100", 3.35e12),
  (r"A100.*80", 2.0e12),
  (r"A100", 1.56e12),
)
_PACKAGES = (
  "jax",
  "jaxlib",
  "jax-cuda13-plugin",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "torch",
  "transformers",
  "peft",
  "nvidia-cudnn-cu13",
)


def about(tiny: bool) -> dict[str, Any]:
  """Returns on what is measured: device, versions, and whether PyTorch sees a GPU."""
  device = jax.devices()[0]
  versions = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return {
    "device": device.device_kind,
    "platform": device.platform,
    "driver": _driver(),
    "torch_device": torch_device(tiny),
    "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    "cores": os.cpu_count(),
    "tiny": tiny,
  }


def peaks_of(device_kind: str) -> Peaks | None:
  """Returns what the vendor states of a device, or None where it is not known."""

  class Named:
    device_kind: str

  named = Named()
  named.device_kind = device_kind
  rate = flops.peak_flops(named)
  for pattern, bytes_a_second in _BYTES_A_SECOND:
    if rate is not None and re.search(pattern, device_kind, re.IGNORECASE):
      return Peaks(rate, bytes_a_second)
  return None


def torch_device(tiny: bool) -> str | None:
  """Returns what PyTorch computes on: "cuda"; "cpu" for tiny shapes alone; None without either."""
  try:
    import torch  # a peer, which may be missing
  except ImportError:
    return None
  if torch.cuda.is_available():
    return "cuda"
  return "cpu" if tiny else None


class Timing(NamedTuple):
  """Holds how long a side took: see results.Speed, whose fields have these names."""

  seconds: float
  least: float
  first: float
  gigabytes: float
  compiling: float | None
  compiled: int | None


def timing(make: Callable[[], Callable[[], Any]], ours: bool, repeats: int) -> Timing:
  """Returns how long a side takes.

  Args:
    make: makes weights and returns a function that waits for its result.
    ours: whether the side is JAX's, else it is PyTorch's.
    repeats: how many are timed, after two.
  """
  began = time.perf_counter()
  with compilations() as compiling:
    run = make()
    run()
  first = time.perf_counter() - began
  run()
  with compilations() as compiled:
    median, least = timed(run, repeats)
  if not ours:
    return Timing(median, least, first, torch_peak_gigabytes(), None, None)
  return Timing(median, least, first, peak_gigabytes(), sum(compiling), len(compiled))


def timed(run: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, float]:
  """Returns (median, least) seconds of a function that waits for its result."""
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - began)
  return statistics.median(seconds), min(seconds)


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
  """Gives a list that grows by the seconds of each compilation by XLA meanwhile."""
  seconds: list[float] = []

  def listen(event: str, duration: float, **_: Any) -> None:
    if event.endswith("backend_compile_duration"):
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seconds
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def peak_gigabytes() -> float:
  """Returns the most memory that JAX has held on its first device, 0 where it is not known."""
  statistics_of_memory = jax.devices()[0].memory_stats() or {}
  return statistics_of_memory.get("peak_bytes_in_use", 0) / 1e9


def torch_peak_gigabytes() -> float:
  """Returns the most memory that PyTorch has held on a GPU, 0 without one."""
  import torch  # a peer, which may be missing

  return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0


def is_out_of_memory(error: Exception) -> bool:
  """Returns whether JAX or PyTorch says that the device's memory does not suffice."""
  text = f"{type(error).__name__}: {error}".lower()
  return any(words in text for words in ("out of memory", "resource_exhausted", "outofmemory"))


def empty_torch_cache() -> None:
  """Gives PyTorch's memory back, before a smaller batch is tried."""
  import torch  # a peer, which may be missing

  gc.collect()
  torch.cuda.empty_cache()


def _driver() -> str:
  """Returns what nvidia-smi says of card and driver, or that it is not there."""
  command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
  except (OSError, subprocess.SubprocessError):
    return "no nvidia-smi"
  return done.stdout.strip()
