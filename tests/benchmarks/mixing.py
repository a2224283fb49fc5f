"""Mixing two checkpoints against mergekit and against copying them with cp, and the memory.

  PYTHONPATH=. python tests/benchmarks/mixing.py [--gigabytes=4] [--format=checkpoint,huggingface]
  [--rounds=3] [--folder=DIR] [--mergekit=PATH]

Two models of --gigabytes each (a Llama 2048 wide in float32, deeper for more; as our checkpoints,
whose leaves hold all layers of a weight, or as HuggingFace folders) are written under --folder and
mixed half and half. Copied with `cp -r` are both of them: cp reads the bytes that mixing reads, and
writes twice as many. Rates are bytes read a second. Both sides are whole processes, the start of
Python included (stated apart, as the time to mix two models of a few kilobytes), and their time
ends when what they wrote is on the disk (sync). They take turns, with the inputs out of the page
cache ("cold") or in it ("warm") on both sides. Memory is the process's peak resident set, and that
with the small models, which is what Python and JAX take. What limits it: a mix must read every
byte, add and write it, and takes digests of what it reads and writes.
mergekit (its linear merge of HuggingFace folders, in float32) comes with the extra [peers], or has
an environment of its own: --mergekit names its mergekit-yaml.
Time: about 10 minutes; needs five times the largest of --gigabytes on the disk.
"""

import os
import shutil
import statistics
import sys
import tempfile

import children
import numpy as np
import tables
from absl import flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

GIGABYTES = flags.DEFINE_list("gigabytes", ["4"], "sizes of each of the two models")
FORMAT = flags.DEFINE_list("format", ["checkpoint", "huggingface"], "of the models")
ROUNDS = flags.DEFINE_integer(
  "rounds", 3, "runs of each side, in turn; the median counts", lower_bound=1
)
MERGEKIT = flags.DEFINE_string(
  "mergekit", shutil.which("mergekit-yaml"), "mergekit's program; without it, it is not run"
)
FOLDER = flags.DEFINE_string(
  "folder", None, "where to write; default: the folder of temporary files"
)


def config_of(gigabytes):
  """A Llama of about this size in float32; of 0, one of a few kilobytes."""
  from factshock.models import decoder

  if not gigabytes:
    return decoder.LlamaConfig(
      vocab_size=64, d_model=8, d_ff=8, num_heads=1, num_kv_heads=1, d_kv=8, layers=1
    )
  layer, rest = 4 * (4 * 2048 * 2048 + 3 * 2048 * 5504), 2 * 4 * 32000 * 2048
  return decoder.LlamaConfig(
    vocab_size=32000,
    d_model=2048,
    d_ff=5504,
    num_heads=16,
    num_kv_heads=16,
    d_kv=128,
    layers=max(1, round((gigabytes * 1e9 - rest) / layer)),
  )


def write_model(path, config, kind, seed):
  """A model of random numbers, leaf by leaf; returns the bytes of the largest leaf (for
  HuggingFace, tensor).
  """
  from factshock.checkpoints import store, tree_files
  from factshock.models.formats import huggingface
  from factshock.models.formats.huggingface import files, names

  some = (0.02 * np.random.default_rng(seed).normal(size=1 << 22)).astype(np.float32)
  make = lambda shape: lambda: np.resize(some, shape)
  if kind == "huggingface":
    parts = [
      files.Writable(part.name, part.shape, some.dtype, make(part.shape))
      for part in names.tensors(config)
    ]
    huggingface.write_folder(path, parts, huggingface.to_json(config, "float32"))
    sizes = [part.shape for part in parts]
  else:
    shapes = {leaf: names.leaf_shape(own) for leaf, own in names.by_leaf(config).items()}
    leaves = {
      name: tree_files.Lazy(tuple(shape), some.dtype, make(shape)) for name, shape in shapes.items()
    }
    store.write(
      path, {"params": tree_files.nested(leaves)}, {"step": 0, "loader_state": None, "config": None}
    )
    sizes = shapes.values()
  return max(int(np.prod(shape)) * some.itemsize for shape in sizes)


def files_under(folder):
  return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]


def prepare(folders, state):
  """Puts the inputs into the page cache, or out of it, with nothing left to be written."""
  os.sync()
  for path in (path for folder in folders for path in files_under(folder)):
    with open(path, "rb", buffering=0) as file:
      if state == "cold":
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
      else:
        buffer = bytearray(1 << 24)
        while file.readinto(buffer):
          pass


def timed(command, output):
  """(Seconds until all is on the disk, peak resident bytes) of a process whose output is then
  removed.
  """
  used = children.run(command, until_written=True)
  shutil.rmtree(output)
  return used.seconds, used.peak


def sides_of(a, b, output, kind):
  """{side: command}."""
  sides = {
    "mix": [
      sys.executable,
      "-m",
      "factshock.mix",
      f"--models={a},{b}",
      "--weights=0.5,0.5",
      f"--output={output}",
    ],
    "cp": ["sh", "-c", 'mkdir "$0" && exec cp -r "$@" "$0"', output, a, b],
  }
  if MERGEKIT.value and kind == "huggingface":
    recipe = os.path.join(os.path.dirname(a), "merge.yml")
    models = "".join(f"  - model: {path}\n    parameters: {{weight: 0.5}}\n" for path in (a, b))
    with open(recipe, "w") as file:
      file.write(f"merge_method: linear\ndtype: float32\nmodels:\n{models}")
    sides["mergekit"] = [MERGEKIT.value, recipe, output, "--no-copy-tokenizer"]
  return sides


def compare(home, kind, gigabytes, small):
  """Rows of the table for one format and size, and (worst ratio, largest memory)."""
  a, b, output = (os.path.join(home, name) for name in ("a", "b", "out"))
  largest = [
    write_model(path, config_of(gigabytes), kind, seed) for seed, path in enumerate((a, b))
  ][0]
  size = sum(os.path.getsize(path) for folder in (a, b) for path in files_under(folder))
  rows, worst, memory = [], float("inf"), 0
  for state in ("cold", "warm"):
    sides = sides_of(a, b, output, kind)
    found = {side: [] for side in sides}
    for number in range(ROUNDS.value):
      print(
        f"  {kind}, {gigabytes:g} GB, {state}: round {number + 1} of {ROUNDS.value}",
        file=sys.stderr,
        flush=True,
      )
      for side, command in sides.items():
        prepare((a, b), state)
        found[side].append(timed(command, output))
    mix, cp = (statistics.median(seconds for seconds, _ in found[side]) for side in ("mix", "cp"))
    ratio = statistics.median(cp / mix for (mix, _), (cp, _) in zip(found["mix"], found["cp"]))
    peer = ""
    if "mergekit" in found:
      seconds, peaks = map(statistics.median, zip(*found["mergekit"]))
      times = statistics.median(
        theirs / mix for (mix, _), (theirs, _) in zip(found["mix"], found["mergekit"])
      )
      peer = f"{seconds:.1f} ({times:.2f} of mix's time); {peaks / 1e9:.2f} GB"
    memory = max([memory, *(peak for _, peak in found["mix"])])
    worst = min(worst, ratio)
    rows.append(
      [
        f"{kind}, 2 x {size / 2e9:.2f} GB, largest leaf {largest / 1e9:.2f} GB",
        state,
        f"{mix:.1f} ({size / mix / 1e9:.2f})",
        f"{cp:.1f} ({size / cp / 1e9:.2f})",
        f"**{ratio:.2f}**",
        f"{cp / max(mix - small[0], 1e-9):.2f}",
        f"{memory / 1e9:.2f} GB",
        peer,
      ]
    )
  shutil.rmtree(a), shutil.rmtree(b)
  return rows, worst, memory


def smallest(home, kind):
  """(Seconds, peak resident bytes) of mixing two models of a few kilobytes: the start of the
  process.
  """
  a, b, output = (os.path.join(home, name) for name in ("a", "b", "out"))
  for seed, path in enumerate((a, b)):
    write_model(path, config_of(0), kind, seed)
  found = [timed(sides_of(a, b, output, kind)["mix"], output) for _ in range(ROUNDS.value)]
  shutil.rmtree(a), shutil.rmtree(b)
  return tuple(map(statistics.median, zip(*found)))


def main(_):
  rows, ratios, memories = [], [], []
  with tempfile.TemporaryDirectory(prefix="mixing-", dir=FOLDER.value) as home:
    need = 5e9 * max(map(float, GIGABYTES.value))
    free = shutil.disk_usage(home).free
    if free < need:
      raise UserError(
        f"{home}: needs {need / 1e9:.1f} GB free, got {free / 1e9:.1f}; say --folder=DIR"
      )
    for kind in FORMAT.value:
      small = smallest(home, kind)
      rows.append(
        [
          f"{kind}, a few kilobytes",
          "warm",
          f"{small[0]:.1f}",
          "",
          "",
          "",
          f"{small[1] / 1e9:.2f} GB",
          "",
        ]
      )
      for gigabytes in map(float, GIGABYTES.value):
        found, ratio, memory = compare(home, kind, gigabytes, small)
        rows, ratios, memories = rows + found, ratios + [ratio], memories + [memory]
  tables.table(
    [
      "models",
      "page cache",
      "mix, s (GB/s read)",
      "cp, s (GB/s read)",
      "rate of mix over cp",
      "without the start of Python",
      "peak memory of mix",
      "mergekit, s; peak memory",
    ],
    rows,
  )
  print(
    tables.goal(
      f"at least 0.5 times the rate of cp; at least {min(ratios):.2f} here", min(ratios) >= 0.5
    )
  )
  print(
    tables.goal(
      f"memory under 2 GB; at most {max(memories) / 1e9:.2f} GB here", max(memories) < 2e9
    )
  )


if __name__ == "__main__":
  console.run(main)
