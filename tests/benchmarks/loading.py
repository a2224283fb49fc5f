"""Loading a HuggingFace folder against reading its files plainly, in one run; and how much memory it takes at most.

python tests/benchmarks/loading.py [--gigabytes=1] [--shape=llama2_7b|mistral_7b] [--folder=DIR]

Writes random bfloat16 shards (a Llama of about --gigabytes, or of a published shape: 13.5 and 14.5 GB on disk) under
--folder, reads and loads them with the page cache emptied of them ("cold") and filled ("warm"), and removes them.
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

from factshock.models import huggingface, llama
from factshock.models.huggingface import files, names

GIGABYTES = flags.DEFINE_float("gigabytes", 1.0, "size of the model on disk")
SHAPE = flags.DEFINE_enum("shape", None, ["llama2_7b", "mistral_7b"], "a published shape, in the place of --gigabytes")
FOLDER = flags.DEFINE_string("folder", None, "where to write the model; left out, the folder of temporary files")
REPEATS = flags.DEFINE_integer("repeats", 3, "runs of each; the fastest counts")
LOAD = flags.DEFINE_string("load", None, "used by the benchmark itself: the folder that a fresh process loads")

MEDIUM = llama.LlamaConfig(vocab_size=32000, d_model=2048, d_ff=5504, num_heads=16, num_kv_heads=16, d_kv=128,
                           layers=1, dtype="bfloat16", param_dtype="bfloat16")
SHAPES = {
    "llama2_7b": dataclasses.replace(MEDIUM, d_model=4096, d_ff=11008, num_heads=32, num_kv_heads=32, layers=32),
    "mistral_7b": dataclasses.replace(MEDIUM, d_model=4096, d_ff=14336, num_heads=32, num_kv_heads=8, layers=32,
                                      sliding_window=4096, max_length=32768)}


def parameters(config):
  return sum(int(np.prod(part.shape)) for part in names.tensors(config))


def model_config():
  if SHAPE.value:
    return SHAPES[SHAPE.value]
  one = parameters(MEDIUM)
  layer = parameters(dataclasses.replace(MEDIUM, layers=2)) - one
  return dataclasses.replace(MEDIUM, layers=max(1, round((GIGABYTES.value * 1e9 / 2 - one) / layer) + 1))


def write_model(folder, config):
  some = (0.02 * np.random.default_rng(0).normal(size=1 << 22)).astype(ml_dtypes.bfloat16)
  tensors = [files.Writable(part.name, part.shape, some.dtype, lambda shape=part.shape: np.resize(some, shape))
             for part in names.tensors(config)]
  huggingface.write_folder(folder, tensors, huggingface.to_json(config, "bfloat16"))


def shards(folder):
  return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".safetensors"))


def forget(folder):
  """Drops the files from the page cache."""
  for path in shards(folder):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read_plainly(folder):
  """Seconds to read every byte of the files into one buffer of 16 MiB."""
  buffer = bytearray(1 << 24)
  began = time.perf_counter()
  for path in shards(folder):
    with open(path, "rb", buffering=0) as file:
      while file.readinto(buffer):
        pass
  return time.perf_counter() - began


def load_here(folder):
  """Loads in this process and prints seconds, bytes of parameters and the peaks of resident memory."""
  import jax

  jax.block_until_ready(jax.numpy.zeros(3) + 1)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  began = time.perf_counter()
  params, _ = huggingface.load(folder)
  seconds = time.perf_counter() - began
  print(json.dumps({"seconds": seconds, "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
                    "before": before, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def load_apart(folder):
  done = subprocess.run([sys.executable, __file__, f"--load={folder}"], capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def compare(folder, label, prepare):
  plain, loads = [], []
  for _ in range(REPEATS.value):
    prepare(folder)
    plain.append(read_plainly(folder))
    prepare(folder)
    loads.append(load_apart(folder))
  load = min(loads, key=lambda one: one["seconds"])
  size = load["bytes"] / 1e9
  print(f"{label}: read plainly {min(plain):.2f} s ({size / min(plain):.2f} GB/s), loaded {load['seconds']:.2f} s "
        f"({size / load['seconds']:.2f} GB/s): {load['seconds'] / min(plain):.2f} times (goal: at most 2)", flush=True)
  peak = max(one["peak"] for one in loads)
  print(f"  peak resident {peak / 1e9:.2f} GB for {size:.2f} GB of arrays; {load['before'] / 1e9:.2f} GB before "
        f"loading; growth {(peak - load['before']) / load['bytes']:.2f} times the arrays", flush=True)


def main(_):
  if LOAD.value:
    return load_here(LOAD.value)
  config = model_config()
  need = 2 * parameters(config)
  home = tempfile.mkdtemp(prefix="loading-", dir=FOLDER.value)
  try:
    free = shutil.disk_usage(home).free
    if free < 1.1 * need:
      sys.exit(f"{home}: needs {1.1 * need / 1e9:.1f} GB free, got {free / 1e9:.1f}; say --folder=DIR")
    folder = os.path.join(home, "model")
    write_model(folder, config)
    print(f"{need / 2e9:.2f} billion parameters in bfloat16, {len(shards(folder))} files", flush=True)
    compare(folder, "cold", forget)
    compare(folder, "warm", read_plainly)
  finally:
    shutil.rmtree(home)


if __name__ == "__main__":
  app.run(main)
