"""Products of few rows with weights in int8 and bfloat16, beside float32, on the device at hand.

  PYTHONPATH=. python tests/benchmarks/int8_products.py [--sizes=512x1024,1024x4096,4096x4096]
  [--rows=8,64,256]

As a loop over tokens has them: each program multiplies its rows by several weights in turn. Ways:
int8 times int8, the rows quantised one by one (absolute maximum) and the weights by output channel;
int8 weights widened to float32 when they are read; bfloat16 weights widened; bfloat16 times
bfloat16, summed in float32. Seconds are those of the processor, of all threads; the share is of
float32's. Nothing of the package is measured: it has no int8.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import tables
from absl import app, flags

SIZES = flags.DEFINE_list("sizes", ["512x1024", "1024x4096", "4096x4096"], "inputs x outputs")
ROWS = flags.DEFINE_list("rows", ["8", "64", "256"], "rows of a batch")
REPEATS = flags.DEFINE_integer("repeats", 5, "runs of each; the fastest counts")

BYTES = 64 << 20  # of the float32 weights of a program, at least one


def quantised(weight_DxF):
  scale_F = np.abs(weight_DxF).max(axis=0) / 127
  return jnp.asarray(np.round(weight_DxF / scale_F), jnp.int8), jnp.asarray(scale_F)


@jax.jit
def plain(x, weights):
  return [x @ weight for weight in weights]


@jax.jit
def int8_product(x, weights):
  scale = jnp.abs(x).max(axis=1, keepdims=True) / 127
  rows = jnp.round(x / scale).astype(jnp.int8)
  products = [jax.lax.dot(rows, weight, preferred_element_type=jnp.int32) for weight, _ in weights]
  return [found.astype(jnp.float32) * scale * by for found, (_, by) in zip(products, weights)]


@jax.jit
def int8_widened(x, weights):
  return [(x @ weight.astype(jnp.float32)) * by for weight, by in weights]


@jax.jit
def bfloat16_widened(x, weights):
  return [x @ weight.astype(jnp.float32) for weight in weights]


@jax.jit
def bfloat16_product(x, weights):
  x = x.astype(jnp.bfloat16)
  return [jax.lax.dot(x, weight, preferred_element_type=jnp.float32) for weight in weights]


def seconds(function, x, weights):
  jax.block_until_ready(function(x, weights))
  times = []
  for _ in range(REPEATS.value):
    began = time.process_time()
    jax.block_until_ready(function(x, weights))
    times.append(time.process_time() - began)
  return min(times)


def main(_):
  random = np.random.default_rng(0)
  lines = []
  for size in SIZES.value:
    inputs, outputs = map(int, size.split("x"))
    count = max(1, BYTES // (4 * inputs * outputs))
    wide = [random.normal(size=(inputs, outputs)).astype(np.float32) for _ in range(count)]
    eights = [quantised(weight) for weight in wide]
    halves = [jnp.asarray(weight, jnp.bfloat16) for weight in wide]
    ways = [
      (int8_product, eights),
      (int8_widened, eights),
      (bfloat16_widened, halves),
      (bfloat16_product, halves),
    ]
    for rows in map(int, ROWS.value):
      x = jnp.asarray(random.normal(size=(rows, inputs)), jnp.float32)
      base = seconds(plain, x, [jnp.asarray(weight) for weight in wide])
      shares = [f"{seconds(way, x, weights) / base:.2f}" for way, weights in ways]
      lines.append([size, rows, f"{base / count * 1e3:.2f}", *shares])
  tables.table(
    [
      "weight",
      "rows",
      "float32, ms",
      "int8 product",
      "int8 widened",
      "bfloat16 widened",
      "bfloat16 product",
    ],
    lines,
  )


if __name__ == "__main__":
  app.run(main)
