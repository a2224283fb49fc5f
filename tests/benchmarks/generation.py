"""Greedy generation of short answers against transformers and CTranslate2, in one run.

  PYTHONPATH=. python tests/benchmarks/generation.py [--models=t5,llama] [--prompts=256]
  [--batch=64] [--tokens=16] [--dtype=float32] [--ctranslate2=float32,int8]
  [--int8]
  PYTHONPATH=. python tests/benchmarks/generation.py --checkpoint=FOLDER --texts=prompts.txt

Prompts come in random order, as from a facts file: transformers takes --batch of them at a time,
  padded to the longest;
factshock sorts them by length first. On CPU both use all cores. On a GPU --models=t5_large
--dtype=bfloat16 (transformers then runs on it too, if PyTorch sees it). Weights and prompts are
random and no token ends an answer, so that both sides generate --tokens of them; with --checkpoint,
a HuggingFace folder, and --texts, a prompt a line, answers end where that model ends them. Times
are medians after a first run, which is stated apart; the tokens of both sides are compared.
"""

import statistics
import time

import answering_sides
import answering_tasks
import jax
import models
import numpy as np
import torch
from absl import app, flags

from factshock.answering import sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.models import int8

CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "HuggingFace folder of a model to take in place of --models"
)
TEXTS = flags.DEFINE_string(
  "texts", None, "file with a prompt a line, for --checkpoint; --prompts of them are taken"
)
MODELS = flags.DEFINE_list("models", ["t5", "llama"], "of tests/benchmarks/models.py")
PROMPTS = flags.DEFINE_integer("prompts", 256, "prompts, of 8 to --longest tokens")
LONGEST = flags.DEFINE_integer("longest", 40, "tokens of the longest prompt")
BATCH = flags.DEFINE_integer("batch", 64, "prompts at a time")
TOKENS = flags.DEFINE_integer("tokens", 16, "new tokens a prompt")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of both sides")
CTRANSLATE2 = flags.DEFINE_list(
  "ctranslate2", [], "compute types of CTranslate2 (pip install ctranslate2), on CPUs, greedily"
)
INT8 = flags.DEFINE_bool("int8", False, "measures factshock in int8 too, as --answer_dtype has it")
BEAMS = flags.DEFINE_integer("beams", 1, "1 is greedy")
REPEATS = flags.DEFINE_integer("repeats", 5, "runs of each side, in turn; the median counts")


def our_side(params, config, prompts, closing):
  from factshock.answering import beams

  params = jax.device_put(params)
  model = LoadedModel(params, config, None)
  options = dict(max_length=TOKENS.value, batch_size=BATCH.value)
  if BEAMS.value > 1:
    return lambda: beams.search(
      model, prompts, (closing, -1), beams=BEAMS.value, length_penalty=1.0, **options
    )[0]
  return lambda: sampling.sample(model, prompts, (closing, -1), **options)[0]


def random_task(name):
  """(config, params, transformers' model, prompts, tokens that end an answer: none)."""
  random = np.random.default_rng(0)
  prompts = answering_tasks.random_prompts(random, PROMPTS.value, LONGEST.value, 32000)
  return *models.make(name, DTYPE.value), prompts, np.zeros(0, np.int32)


def task_of(folder):
  """The same of a model in a folder and the prompts of --texts."""
  from factshock.answering import batches
  from factshock.data import pretrained_tokenizers

  config, params, peer = models.read(folder, DTYPE.value)
  model = LoadedModel(params, config, pretrained_tokenizers.load(folder))
  with open(TEXTS.value, encoding="utf-8") as lines:
    prompts = [
      batches.encode_prompt(model, line.rstrip("\n").replace("\\n", "\n")) for line in lines
    ][: PROMPTS.value]
  return config, params, peer, prompts, np.array(batches.closing_tokens(model), np.int32)


def until_end(rows, closing):
  """The rows of tokens, each up to the first that ends it."""
  ends = np.isin(rows, [*closing, -1]).cumsum(axis=1) - np.isin(rows, [*closing, -1]) > 0
  return np.where(ends, -1, rows)


def main(_):
  for name in [CHECKPOINT.value] if CHECKPOINT.value else MODELS.value:
    config, params, model, prompts, closing = (
      task_of(name) if CHECKPOINT.value else random_task(name)
    )
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    options = (BATCH.value, TOKENS.value, closing.tolist(), BEAMS.value)
    sides = {
      "transformers": answering_sides.generator(model, prompts, *options),
      "factshock": our_side(params, config, prompts, closing),
    }
    if INT8.value:
      sides["factshock, int8"] = our_side(int8.quantised(params), config, prompts, closing)
    for kind in CTRANSLATE2.value:
      sides[f"CTranslate2, {kind}"] = answering_sides.ctranslate2_generator(
        model, prompts, *options[:3], kind
      )
    first, times, said = {}, {side: [] for side in sides}, {}
    for side, run in sides.items():
      began = time.perf_counter()
      said[side] = run()
      first[side] = time.perf_counter() - began
    for _ in range(REPEATS.value):
      for side, run in sides.items():
        began = time.perf_counter()
        run()
        times[side].append(time.perf_counter() - began)
    median = {side: statistics.median(found) for side, found in times.items()}
    said = {side: until_end(rows, closing) for side, rows in said.items()}
    same = {side: (rows == said["factshock"]).all(axis=1).mean() for side, rows in said.items()}
    lengths = (said["transformers"] >= 0).sum(axis=1)
    print(
      f"{name} ({models.count(params):.0f} M parameters, {DTYPE.value}, "
      f"{jax.devices()[0].device_kind}): {len(prompts)} "
      f"prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, {BATCH.value} "
      f"at a time, at most {TOKENS.value} new tokens (mean "
      f"{lengths.mean():.1f}), {BEAMS.value} beams"
    )
    for side in sides:
      print(
        f"  {side}: {median[side]:.2f} s, {len(prompts) / median[side]:.1f} answers/s; first run "
        f"{first[side]:.2f} s; {median[side] / median['factshock']:.2f} times our time; "
        f"answers with our tokens {same[side]:.1%}; all "
        f"{', '.join(format(one, '.2f') for one in times[side])}",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main)
