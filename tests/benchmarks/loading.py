"""Loading a HuggingFace folder against reading its files: time, and memory at most.

  PYTHONPATH=. python tests/benchmarks/loading.py [--gigabytes=1] [--shape=llama2_7b|mistral_7b]
  [--folder=DIR]

Writes random bfloat16 shards (a Llama of about --gigabytes, or of a published shape: 13.5 and 14.5
GB on disk) under
--folder and removes them at the end. With the page cache emptied of them ("cold") and filled
("warm") it times, each
in a process of its own and in turn: reading every byte into one small buffer, reading the files
  into memory, the
safetensors library (arrays as stored, neither transposed nor stacked), and factshock's loading.
"""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
from absl import app, flags

from factshock.models import decoder
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import files, names

GIGABYTES = flags.DEFINE_float("gigabytes", 1.0, "size of the model on disk")
SHAPE = flags.DEFINE_enum(
  "shape", None, ["llama2_7b", "mistral_7b"], "a published shape, in the place of --gigabytes"
)
FOLDER = flags.DEFINE_string(
  "folder", None, "where to write the model; left out, the folder of temporary files"
)
REPEATS = flags.DEFINE_integer("repeats", 3, "runs of each; the fastest counts")
LOAD = flags.DEFINE_string(
  "load", None, "used by the benchmark itself: the folder that a fresh process loads"
)
WAY = flags.DEFINE_enum(
  "way",
  "factshock",
  ["through a buffer", "into memory", "safetensors library", "factshock"],
  "used by the benchmark itself: how that process loads it",
)

MEDIUM = decoder.LlamaConfig(
  vocab_size=32000,
  d_model=2048,
  d_ff=5504,
  num_heads=16,
  num_kv_heads=16,
  d_kv=128,
  layers=1,
  dtype="bfloat16",
  param_dtype="bfloat16",
)
SHAPES = {
  "llama2_7b": dataclasses.replace(
    MEDIUM, d_model=4096, d_ff=11008, num_heads=32, num_kv_heads=32, layers=32
  ),
  "mistral_7b": dataclasses.replace(
    MEDIUM,
    d_model=4096,
    d_ff=14336,
    num_heads=32,
    num_kv_heads=8,
    layers=32,
    sliding_window=4096,
    max_length=32768,
  ),
}


def parameters(config):
  return sum(int(np.prod(part.shape)) for part in names.tensors(config))


def model_config():
  if SHAPE.value:
    return SHAPES[SHAPE.value]
  one = parameters(MEDIUM)
  layer = parameters(dataclasses.replace(MEDIUM, layers=2)) - one
  return dataclasses.replace(
    MEDIUM, layers=max(1, round((GIGABYTES.value * 1e9 / 2 - one) / layer) + 1)
  )


def write_model(folder, config):
  some = (0.02 * np.random.default_rng(0).normal(size=1 << 22)).astype(ml_dtypes.bfloat16)
  tensors = [
    files.Writable(
      part.name, part.shape, some.dtype, lambda shape=part.shape: np.resize(some, shape)
    )
    for part in names.tensors(config)
  ]
  huggingface.write_folder(folder, tensors, huggingface.to_json(config, "bfloat16"))


def shards(folder):
  return sorted(
    os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".safetensors")
  )


def forget(folder):
  """Drops the files from the page cache."""
  for path in shards(folder):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def through_a_buffer(folder):
  """Reads every byte into one buffer of 16 MiB."""
  buffer = bytearray(1 << 24)
  for path in shards(folder):
    with open(path, "rb", buffering=0) as file:
      while file.readinto(buffer):
        pass


def into_memory(folder):
  """The bytes of each file, all held."""
  return [np.fromfile(path, np.uint8) for path in shards(folder)]


def safetensors_library(folder):
  import jax
  from safetensors import flax

  return jax.block_until_ready([flax.load_file(path) for path in shards(folder)])


def factshock(folder):
  return huggingface.load(folder)[0]


WAYS = {
  "through a buffer": through_a_buffer,
  "into memory": into_memory,
  "safetensors library": safetensors_library,
  "factshock": factshock,
}


def load_here(folder, way):
  """Loads in this process and prints seconds and the peaks of resident memory before and after."""
  import jax

  jax.block_until_ready(jax.numpy.zeros(3) + 1)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  began = time.perf_counter()
  kept = WAYS[way](folder)
  seconds = time.perf_counter() - began
  del kept
  print(
    json.dumps(
      {
        "seconds": seconds,
        "before": before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
      }
    )
  )


def compare(folder, label, prepare):
  size = sum(os.path.getsize(path) for path in shards(folder))
  room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  found = {
    way: [] for way in WAYS if way != "safetensors library" or 2.3 * size < room
  }  # it holds two copies
  for _ in range(REPEATS.value):
    for way in found:
      prepare(folder)
      done = subprocess.run(
        [sys.executable, __file__, f"--load={folder}", f"--way={way}"],
        capture_output=True,
        text=True,
        check=True,
      )
      found[way].append(json.loads(done.stdout.splitlines()[-1]))
  fastest = {way: min(run["seconds"] for run in runs) for way, runs in found.items()}
  for way, runs in found.items():
    peak, before = (max(run[name] for run in runs) for name in ("peak", "before"))
    print(
      f"{label}, {way}: {fastest[way]:.2f} s ({size / 1e9 / fastest[way]:.2f} GB/s), "
      f"{len(runs)} runs "
      f"{', '.join(format(run['seconds'], '.2f') for run in runs)}; peak resident "
      f"{peak / 1e9:.2f} GB, "
      f"{before / 1e9:.2f} before",
      flush=True,
    )
  for way in list(found)[:-1]:
    print(
      f"{label}: factshock takes {fastest['factshock'] / fastest[way]:.2f} times as long as {way}"
    )


def main(_):
  if LOAD.value:
    return load_here(LOAD.value, WAY.value)
  config = model_config()
  need = 2 * parameters(config)
  home = tempfile.mkdtemp(prefix="loading-", dir=FOLDER.value)
  try:
    free = shutil.disk_usage(home).free
    if free < 1.1 * need:
      sys.exit(
        f"{home}: needs {1.1 * need / 1e9:.1f} GB free, got {free / 1e9:.1f}; say --folder=DIR"
      )
    folder = os.path.join(home, "model")
    write_model(folder, config)
    print(
      f"{need / 2e9:.2f} billion parameters in bfloat16, {len(shards(folder))} files", flush=True
    )
    compare(folder, "cold", forget)
    compare(folder, "warm", through_a_buffer)
  finally:
    shutil.rmtree(home)


if __name__ == "__main__":
  app.run(main)
