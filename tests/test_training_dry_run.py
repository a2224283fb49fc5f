"""The dry run: counted FLOPs and parameters against closed forms, and what the verb prints."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.models import llama, lora
from factshock.training import dry_run

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = llama.LlamaConfig(vocab_size=50, d_model=32, d_ff=40, num_heads=4, num_kv_heads=2, d_kv=8, layers=3)
TOKENS = jax.ShapeDtypeStruct((4, 16), jnp.int32)
PARAMS = jax.eval_shape(lambda: llama.init(CONFIG, jax.random.key(0)))


def closed_form(config, rows, length):
  """FLOPs of one pass forward: two a weight and token, and the products of scores and values."""
  wide, narrow = config.num_heads * config.d_kv, config.num_kv_heads * config.d_kv
  weights = config.layers * (config.d_model * (2 * wide + 2 * narrow + 3 * config.d_ff)) + config.vocab_size * config.d_model
  return rows * length * (2 * weights + config.layers * 4 * length * wide)


def flops(function, *arguments):
  return dry_run.count_flops(dry_run._without_dead_code(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize("unroll", [False, True])
def test_counted_products_are_those_of_the_closed_form(unroll):
  config = dataclasses.replace(CONFIG, unroll=unroll)
  forward = lambda params, tokens: llama.forward(params, config, tokens).sum()
  assert flops(forward, PARAMS, TOKENS) == closed_form(config, 4, 16)
  assert flops(jax.value_and_grad(forward), PARAMS, TOKENS) == 3 * closed_form(config, 4, 16)


def test_gradients_of_frozen_weights_do_not_count():
  adapters = jax.eval_shape(lambda: lora.init(PARAMS, jax.random.key(0), 1, ["query"]))
  forward = lambda adapters, params, tokens: llama.forward(lora.attach(params, adapters, 1.0), CONFIG, tokens).sum()
  whole = closed_form(CONFIG, 4, 16)
  assert 1.5 * whole < flops(jax.grad(forward), adapters, PARAMS, TOKENS) < 2.3 * whole


def test_tree_sizes():
  tree = {"a": np.zeros((3, 4), np.float32), "b": {"c": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}}
  assert dry_run.tree_size(tree) == 17 and dry_run.tree_bytes(tree) == 58 and dry_run.tree_bytes(None) == 0


def run(*flags):
  return subprocess.run([sys.executable, "-m", "factshock.train", *flags], cwd=ROOT, capture_output=True, text=True,
                        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"})


def test_the_verb_says_what_training_takes_and_leaves_nothing(tmp_path):
  done = run("--config=configs/t5_v1_1_small.py", "--dry_run", f"--workdir={tmp_path}/w", "--config.facts=none.jsonl")
  assert done.returncode == 0, done.stderr
  assert "parameters: 76,961,152, of them trained 76,961,152" in done.stdout  # as published: 77 M
  assert "memory a device:" in done.stdout and "TFLOP" in done.stdout and not (tmp_path / "w").exists()


def test_a_vocabulary_left_to_the_tokenizer_is_an_error():
  done = run("--config=configs/demo.py", "--dry_run")
  assert done.returncode == 2 and "config.model.vocab_size: a dry run needs" in done.stderr
