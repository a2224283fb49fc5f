"""Attention by a kernel: the route with lengths equals the one with masks, and cuDNN is chosen
where it can.
"""

import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys

import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.models import attention, decoder, families, fused, products, t5
from factshock.runtime.errors import UserError
from factshock.training import train_step
from gpu import cases

T5 = t5.T5Config(
  vocab_size=61,
  d_model=24,
  d_ff=40,
  num_heads=3,
  d_kv=8,
  encoder_layers=2,
  decoder_layers=2,
  relative_buckets=8,
  relative_max_distance=20,
)
GROUPED = decoder.LlamaConfig(
  vocab_size=60, d_model=32, d_ff=40, num_heads=4, num_kv_heads=2, d_kv=8, layers=2
)
MODELS = {
  "t5": T5,
  "t5, remat": dataclasses.replace(T5, remat="full"),
  "t5, umt5": dataclasses.replace(T5, bias_in_every_layer=True),
  "llama in groups": GROUPED,
  "mistral": dataclasses.replace(GROUPED, sliding_window=5),
}
GPU = fused.Backend("gpu", (9, 0))
WANTED = dataclasses.replace(T5, attention="auto", dtype="bfloat16")


def spread(params):
  """Params whose position bias is as large as a trained one's, so that a mistake in it shows."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * 5 if "relative_bias" in str(path[-1]) else leaf, params
  )


@functools.partial(hf_t5.quick_jit, static_argnums=(1, 3))
def loss_and_gradients(params, config, batch, kernel):
  del kernel  # it tells apart what was traced with one from what was without
  return jax.value_and_grad(train_step.loss_fn, has_aux=True)(params, config, batch)


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=pytest.mark.slow) if "remat" in name else name for name in MODELS],
)
def test_lengths_and_causality_equal_masks(name, monkeypatch):
  """jax.nn.dot_product_attention as cuDNN is asked, computed by XLA in float32: loss and the
  gradient of every weight.
  """
  config = MODELS[name]
  batch = cases.batch_of(config, 14)
  params = spread(families.of(config).init(config, jax.random.key(0)))
  (expected, sums), gradients = loss_and_gradients(params, config, batch, None)
  monkeypatch.setattr(fused, "kernel", lambda *_, **__: "xla")
  seen, attend = [], fused.attend
  monkeypatch.setattr(
    fused, "attend", lambda *arguments: seen.append(arguments[3]) or attend(*arguments)
  )
  (got, _), others = loss_and_gradients(params, config, batch, "xla")
  assert len(seen) >= (3 if "t5" in name else 1), "the route was not taken"
  assert (
    got == pytest.approx(float(expected), rel=1e-5)
    and float(sums["tokens"]) == batch["weights"][:, "t5" not in name :].sum()
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(others))
  far = {
    weight: distance
    for weight, distance in cases.distances(others, gradients).items()
    if not distance < 1e-5
  }
  assert not far
  if "t5" in name:
    biases = [
      gradients[side]["layers"] if config.bias_in_every_layer else gradients[side]
      for side in ("encoder", "decoder")
    ]
    assert all(float(jnp.abs(tree["relative_bias"]).max()) > 1e-2 for tree in biases)


def test_without_lengths_or_bias_it_would_show(monkeypatch):
  """The comparison above sees a lost bias and lost lengths."""
  batch, params = cases.batch_of(T5, 14), spread(t5.init(T5, jax.random.key(0)))
  expected = float(loss_and_gradients(params, T5, batch, None)[0][0])
  monkeypatch.setattr(fused, "kernel", lambda *_, **__: "xla")
  attend = fused.attend
  for lost in ("bias", "lengths"):
    monkeypatch.setattr(
      fused,
      "attend",
      lambda q, k, v, seen: attend(q, k, v, dataclasses.replace(seen, **{lost: None})),
    )
    assert (
      abs(float(loss_and_gradients(params, T5, batch, lost)[0][0]) - expected) > 1e-3 * expected
    )


@pytest.mark.parametrize(
  "config, where, sizes, options, expected",
  [
    (WANTED, GPU, (64, 16), {}, "cudnn"),
    (WANTED, fused.Backend("gpu", (8, 0)), (64, 16), {}, "cudnn"),
    (dataclasses.replace(WANTED, attention="cudnn"), GPU, (64, 16), {}, "cudnn"),
    (dataclasses.replace(WANTED, attention="xla"), GPU, (64, 16), {}, None),
    (WANTED, GPU, (63,), {}, "needs even lengths, got 63"),
    (
      WANTED,
      fused.Backend("cpu"),
      (64, 16),
      {},
      "needs an NVIDIA GPU of compute capability 8.0 at least, got a cpu",
    ),
    (WANTED, fused.Backend("tpu"), (64, 16), {}, "got a tpu"),
    (WANTED, fused.Backend("gpu"), (64, 16), {}, "got a gpu"),
    (WANTED, fused.Backend("gpu", (7, 0)), (64, 16), {}, "got a gpu of 7.0"),
    (
      dataclasses.replace(WANTED, dtype="float32"),
      GPU,
      (64, 16),
      {},
      "needs config.model.dtype='bfloat16', got 'float32'",
    ),
    (
      dataclasses.replace(WANTED, d_kv=256),
      GPU,
      (64, 16),
      {},
      "a multiple of 8 up to 128, got 256",
    ),
    (dataclasses.replace(WANTED, d_kv=20), GPU, (64, 16), {}, "a multiple of 8 up to 128, got 20"),
    (WANTED, GPU, (64, 15), {}, "needs even lengths, got 64 and 15"),
    (WANTED, GPU, (64, 16), dict(packed=True), "reads no packed rows"),
    (WANTED, GPU, (64, 16), dict(dropout=0.1), "set config.model.dropout=0.0, got 0.1"),
  ],
)
def test_the_kernel_goes_by_config_device_and_shapes(config, where, sizes, options, expected):
  options = {"packed": False, **options}
  if expected in ("cudnn", None):
    assert fused.choose(config, where, sizes, **options) == expected
    return
  assert fused.choose(config, where, sizes, **options) is None
  with pytest.raises(
    UserError, match="config.model.attention='cudnn': .*'auto' takes cuDNN only where it can"
  ) as error:
    fused.choose(dataclasses.replace(config, attention="cudnn"), where, sizes, **options)
  assert expected in str(error.value)


@pytest.mark.parametrize(
  "config",
  [
    WANTED,
    dataclasses.replace(WANTED, bias_in_every_layer=True),
    dataclasses.replace(GROUPED, attention="auto", dtype="bfloat16"),
  ],
  ids=["t5", "umt5", "llama"],
)
def test_on_a_gpu_the_kernel_is_asked_for_where_rows_train(config, monkeypatch):
  """What JAX is asked for, as a CPU cannot run it: lengths where keys are padded or a bias is
  there, no mask ever.
  """
  asked = []
  monkeypatch.setattr(fused, "backend", lambda: GPU)
  monkeypatch.setattr(
    jax.nn, "dot_product_attention", lambda q, k, v, bias, **how: asked.append((bias, how)) or q
  )
  batch = cases.batch_of(config, 16)
  params = jax.eval_shape(lambda: families.of(config).init(config, jax.random.key(0)))
  jax.eval_shape(lambda params: train_step.loss_fn(params, config, batch), params)
  assert {how["implementation"] for _, how in asked} == {"cudnn"} and {
    how["scale"] for _, how in asked
  } == {1.0}
  assert all("mask" not in how for _, how in asked)
  kinds = {
    (
      None if bias is None else bias.shape,
      how["is_causal"],
      how["key_value_seq_lengths"] is not None,
    )
    for bias, how in asked
  }
  assert kinds == (
    {((1, 3, 16, 16), False, True), ((1, 3, 16, 16), True, True), (None, False, True)}
    if isinstance(config, t5.T5Config)
    else {(None, True, False)}
  )
  assert all(bias is None or bias.dtype == jnp.bfloat16 for bias, _ in asked)
  asked.clear()
  with products.counted():
    jax.eval_shape(lambda params: train_step.loss_fn(params, config, batch), params)
  if isinstance(config, decoder.LlamaConfig):  # rows that may be padded on the left
    jax.eval_shape(lambda params: decoder.forward(params, config, batch["tokens"]), params)
  assert not asked


def test_cudnn_on_a_cpu_is_an_error():
  config = dataclasses.replace(WANTED, attention="cudnn")
  with pytest.raises(UserError, match="needs an NVIDIA GPU .* got a cpu"):
    train_step.loss_fn(None, config, cases.batch_of(config, 16))
  with pytest.raises(
    UserError, match="attention: expected one of 'xla', 'cudnn', 'auto', got 'flash'"
  ):
    dataclasses.replace(T5, attention="flash")


def test_lengths_are_those_before_the_padding():
  tokens = np.array([[5, 6, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]], np.int32)
  np.testing.assert_array_equal(fused.lengths(tokens), [2, 4, 1])
  assert np.all(
    (np.asarray(attention.padding_mask(tokens)) == 0).sum(axis=-1).squeeze() == [2, 4, 0]
  )
  np.testing.assert_array_equal(fused.full(tokens), [4, 4, 4])


@pytest.mark.skipif(
  shutil.which("nvidia-smi") is None,
  reason="no NVIDIA GPU here: neither cuDNN nor XLA is compared with the references there",
)
def test_the_part_parity_passes_on_a_gpu(tmp_path):
  env = {
    key: value for key, value in os.environ.items() if key not in ("JAX_PLATFORMS", "XLA_FLAGS")
  }
  root = pathlib.Path(__file__).parents[1]
  done = subprocess.run(
    [sys.executable, "-m", "gpu.check", "--only=parity", f"--output={tmp_path}"],
    cwd=root,
    capture_output=True,
    text=True,
    env={**env, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])},
  )
  if done.returncode == 2:
    pytest.skip(f"no GPU for JAX: {done.stderr.strip()}")
  assert done.returncode == 0, done.stdout + done.stderr
