r"""The one-layer theory: pretraining and four finetuning sets of 1,000 subjects and 5 relations over 20 seeds, and a step against PyTorch.

  python tests/benchmarks/one_layer.py [--seeds=20]

PyTorch runs the same loss by autograd, seed after seed or all in one batch (the faster of the two counts), with as many threads as there are cores.
"""

import time

import jax
import numpy as np
import torch
from absl import app, flags

from factshock.theory import conditions, phases, worlds

SIZES = dict(subjects=1000, relations=5, answers=20, zipf=1.0, answer_zipf=1.0, sentences=100_000, test=0.5)
SETTINGS = dict(cosine=0.0, question=1.0, bins=10, learning_rate=1.0, steps=(1, 2, 5, 10, 20, 50, 100, 200))
_SEEDS = flags.DEFINE_integer("seeds", 20, "Seeds.")
_STEPS, _RATE = 600, 100.0


def torch_seconds(world, seeds, steps):
  """Seconds of `steps` of pretraining of these seeds at once, after two for warming up; and the last loss."""
  answers = torch.tensor(world.answers_KxSxR[:seeds].astype(np.int64))[..., None]
  weights = torch.tensor(world.counts_KxSxR[:seeds])
  weights = weights / weights.sum(dim=(1, 2), keepdim=True)
  subject = torch.zeros(seeds, SIZES["subjects"], 1, SIZES["relations"] * SIZES["answers"], requires_grad=True)
  relation = torch.zeros(seeds, 1, SIZES["relations"], SIZES["relations"] * SIZES["answers"], requires_grad=True)
  for step in range(steps + 2):
    if step == 2:
      began = time.perf_counter()
    logits = .5 * subject + .5 * relation
    loss = (weights * (logits.logsumexp(-1) - logits.gather(-1, answers)[..., 0])).sum()
    gradients = torch.autograd.grad(loss, (subject, relation))
    with torch.no_grad():
      for array, gradient in zip((subject, relation), gradients):
        array -= _RATE * gradient
  return time.perf_counter() - began, float(loss.detach()) / seeds


def main(_):
  began = time.perf_counter()
  world = worlds.make(SIZES, list(range(_SEEDS.value)))
  w_v = phases.at(phases.pretrained(world, SIZES, (_STEPS,), _RATE, 0.0), 0)
  pretrained = time.perf_counter()
  conditions.run(world, w_v, SETTINGS, sets=worlds.SETS)
  ended = time.perf_counter()
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
  print(f"{_SEEDS.value} seeds, compilation included: pretraining {pretrained - began:.1f} s, four finetuning sets {ended - pretrained:.1f} s, "
        f"together {ended - began:.1f} s")
  few, steps = 4, 100
  some = worlds.make(SIZES, list(range(few)))
  ours = []
  for _ in range(2):  # the first one compiles
    began = time.perf_counter()
    phases.pretrained(some, SIZES, (steps + 2,), _RATE, 0.0)
    ours.append(time.perf_counter() - began)
  ours = ours[1] / (steps + 2) / few
  together, _ = torch_seconds(some, few, steps)
  alone = sum(torch_seconds(worlds.make(SIZES, [seed]), 1, steps)[0] for seed in range(few))
  theirs = min(together, alone) / steps / few
  print(f"a pretraining step of one seed: {1000 * ours:.2f} ms, PyTorch {1000 * theirs:.2f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
  app.run(main)
