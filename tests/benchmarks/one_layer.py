"""The one-layer theory: pretraining and four finetuning sets over 20 seeds, in a minute.

  PYTHONPATH=. python tests/benchmarks/one_layer.py [--seeds=20]

A world of 1,000 subjects and 5 relations, as configs/one_layer.py has it. PyTorch takes the same
steps of the same loss by autograd, seed after seed or several in one batch (the faster one counts),
with all cores. Time: half a minute.
"""

import time

import numpy as np
import tables
import torch
from absl import app, flags

from factshock.theory import conditions, phases, worlds

SIZES = worlds.Sizes(
  subjects=1000, relations=5, answers=20, zipf=1.0, answer_zipf=1.0, sentences=100_000, test=0.5
)
SETTINGS = conditions.Settings(
  cosine=0.0, question=1.0, bins=10, learning_rate=1.0, steps=(1, 2, 5, 10, 20, 50, 100, 200)
)
SEEDS = flags.DEFINE_integer("seeds", 20, "Seeds.")
_STEPS, _RATE = 600, 100.0


def torch_seconds(world, seeds, steps):
  """Seconds of `steps` of pretraining of these seeds at once, after two for warming up."""
  answers = torch.tensor(world.answers_KxSxR[:seeds].astype(np.int64))[..., None]
  weights = torch.tensor(world.counts_KxSxR[:seeds])
  weights = weights / weights.sum(dim=(1, 2), keepdim=True)
  subject = torch.zeros(
    seeds, SIZES.subjects, 1, SIZES.relations * SIZES.answers, requires_grad=True
  )
  relation = torch.zeros(
    seeds, 1, SIZES.relations, SIZES.relations * SIZES.answers, requires_grad=True
  )
  for step in range(steps + 2):
    if step == 2:
      began = time.perf_counter()
    logits = 0.5 * subject + 0.5 * relation
    loss = (weights * (logits.logsumexp(-1) - logits.gather(-1, answers)[..., 0])).sum()
    gradients = torch.autograd.grad(loss, (subject, relation))
    with torch.no_grad():
      for array, gradient in zip((subject, relation), gradients):
        array -= _RATE * gradient
  return time.perf_counter() - began


def main(_):
  began = time.perf_counter()
  world = worlds.make(SIZES, list(range(SEEDS.value)))
  w_v = phases.at(phases.pretrained(world, SIZES, (_STEPS,), _RATE, 0.0), 0)
  pretrained = time.perf_counter()
  conditions.run(world, w_v, SETTINGS, sets=worlds.SETS)
  whole, finetuned = time.perf_counter() - began, time.perf_counter() - pretrained
  tables.table(
    ["stage, compilation included", "seconds"],
    [
      [f"pretraining, {_STEPS} steps, {SEEDS.value} seeds", f"{pretrained - began:.1f}"],
      [
        f"four finetuning sets, {SETTINGS.steps[-1]} steps, measured {len(SETTINGS.steps)} times",
        f"{finetuned:.1f}",
      ],
    ],
  )
  print(tables.goal(f"all under 60 s; {whole:.1f} s here", whole < 60))
  few, steps = 4, 100
  some, ours = worlds.make(SIZES, list(range(few))), []
  for _ in range(2):  # the first one compiles
    began = time.perf_counter()
    phases.pretrained(some, SIZES, (steps + 2,), _RATE, 0.0)
    ours.append(time.perf_counter() - began)
  ours = ours[1] / (steps + 2) / few
  together, alone = (
    torch_seconds(some, few, steps),
    sum(torch_seconds(worlds.make(SIZES, [seed]), 1, steps) for seed in range(few)),
  )
  theirs = min(together, alone) / steps / few
  tables.table(
    ["a pretraining step of one seed", "ms", "ratio to PyTorch"],
    [
      ["factshock", f"{1000 * ours:.2f}", f"{ours / theirs:.2f}"],
      ["PyTorch", f"{1000 * theirs:.2f}", "1"],
    ],
  )


if __name__ == "__main__":
  app.run(main)
