"""Ranking 200 candidates of 1-6 tokens against scoring each (query, candidate) pair alone, in one run.

python tests/benchmarks/ranking.py [--queries=32] [--d_model=128] [--vocabulary=4000]
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from factshock.answering import batches, ranking
from factshock.data.tokenizers import word_tokenizer
from factshock.models import t5

QUERIES = flags.DEFINE_integer("queries", 32, "queries to rank")
D_MODEL = flags.DEFINE_integer("d_model", 128, "width of the model (2 + 2 layers)")
VOCABULARY = flags.DEFINE_integer("vocabulary", 4000, "words of the tokenizer")
REPEATS = 3
PAIRS = 256  # pairs scored at a time


@functools.partial(jax.jit, static_argnums=1)
def score_pairs(params, config, inputs_BxS, targets_BxT):
  """log p of all tokens but padding, one (query, candidate) pair a row."""
  log_p = jax.nn.log_softmax(t5.forward(params, config, inputs_BxS, targets_BxT))
  picked_BxT = jnp.take_along_axis(log_p, targets_BxT[..., None], axis=-1)[..., 0]
  return jnp.where(targets_BxT != 0, picked_BxT, 0.0).sum(axis=-1)


def rank_pairs(params, config, tokenizer, prompts, names):
  tokens = [batches.encode_prompt(tokenizer, prompt) for prompt in prompts]
  inputs = np.repeat(batches.pad(tokens, range(len(tokens)), len(tokens)), len(names), axis=0)
  targets = np.zeros((len(names), 7), np.int32)
  for row, name in enumerate(names):
    sequence = tokenizer.encode("<extra_id_0> " + name)
    targets[row, :len(sequence)] = sequence
  targets = np.tile(targets, (len(prompts), 1))
  parts = [score_pairs(params, config, inputs[at:at + PAIRS], targets[at:at + PAIRS])
           for at in range(0, len(inputs), PAIRS)]
  return np.concatenate([np.asarray(part) for part in parts]).reshape(len(prompts), len(names))


def candidates(random, words):
  """200 names of 1-6 tokens, none the beginning of another; some share their first words, as names do."""
  names = set()
  while len(names) < 200:
    length = random.integers(1, 7)
    name = [int(random.integers(40)) + 100 * length, *random.integers(1000, words, length - 1)]
    names.add(" ".join(f"w{number}" for number in name))
  return sorted(names)


def timed(run):
  run()  # compiles
  times = []
  for _ in range(REPEATS):
    began = time.perf_counter()
    result = run()
    times.append(time.perf_counter() - began)
  return result, min(times)


def main(argv):
  del argv
  random = np.random.default_rng(0)
  tokenizer = word_tokenizer([f"w{number}" for number in range(VOCABULARY.value)], 100)
  config = t5.T5Config(vocab_size=tokenizer.size, d_model=D_MODEL.value, d_ff=2 * D_MODEL.value,
                       num_heads=4, d_kv=D_MODEL.value // 4, encoder_layers=2, decoder_layers=2)
  params = t5.init(config, jax.random.key(0))
  names = candidates(random, VOCABULARY.value)
  prompts = [" ".join(f"w{n}" for n in random.integers(0, VOCABULARY.value, 18)) + " <extra_id_0>"
             for _ in range(QUERIES.value)]
  keys = ["r"] * len(prompts)
  ours, fast = timed(lambda: np.stack(ranking.rank(params, config, tokenizer, prompts, keys, {"r": names})))
  pairs, slow = timed(lambda: rank_pairs(params, config, tokenizer, prompts, names))
  print(f"{len(prompts)} queries x {len(names)} candidates on {jax.devices()[0].platform}: "
        f"ranking {fast:.2f} s, pairs {slow:.2f} s, ratio {slow / fast:.1f}; largest difference {np.abs(ours - pairs).max():.1e}")


if __name__ == "__main__":
  app.run(main)
