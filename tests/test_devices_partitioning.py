"""Meshes, shards, and the devices a CPU host shows."""

import dataclasses
import functools
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from factshock.checkpoints import tree_files
from factshock.devices import partitioning
from factshock.models import decoder, families, sharding, t5
from factshock.runtime.errors import UserError
from factshock.training import drivers, loop, optimizers, train_step


def test_the_mesh_has_all_local_devices_on_an_auto_data_axis():
  mesh = partitioning.make_mesh()
  assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "model": 1}
  assert mesh.axis_types == (jax.sharding.AxisType.Auto,) * 3
  with jax.set_mesh(mesh):
    batch = partitioning.shard_batch({"x": np.ones((8, 2), np.float32)}, mesh)
    assert float(jax.jit(lambda x: (x * 2).sum())(batch["x"])) == 32


def test_a_batch_is_cut_and_parameters_are_whole():
  mesh = partitioning.make_mesh(devices=jax.devices()[:4])
  array = np.arange(24, dtype=np.int32).reshape(8, 3)
  sharded = partitioning.shard_batch({"inputs": array}, mesh)["inputs"]
  assert [shard.data.shape for shard in sharded.addressable_shards] == [(2, 3)] * 4
  np.testing.assert_array_equal(np.asarray(sharded), array)
  whole = partitioning.place_params({"w": array}, mesh)["w"]
  assert [shard.data.shape for shard in whole.addressable_shards] == [(8, 3)] * 4


def test_a_batch_that_does_not_divide_names_both_numbers():
  with pytest.raises(
    UserError, match="8 devices share evenly, got 12 .targets.; choose a multiple of 8"
  ):
    partitioning.shard_batch(
      {"inputs": np.ones((16, 2)), "targets": np.ones((12, 2))}, partitioning.make_mesh()
    )


def test_a_negative_count_of_cpu_devices_is_refused():
  with pytest.raises(UserError, match=">= 0"):
    partitioning.use_cpu_devices(-1)


@pytest.mark.parametrize(
  "count, forced, expected",
  [
    (3, "", 3),
    (0, "", partitioning.usable_cores()),
    (2, "--xla_force_host_platform_device_count=5", 5),
  ],
)
def test_use_cpu_devices_in_a_fresh_process(count, forced, expected):
  code = (
    "import jax; from factshock.devices import partitioning; "
    f"partitioning.use_cpu_devices({count}); print(len(jax.devices()))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "XLA_FLAGS": forced},
    capture_output=True,
    text=True,
    check=True,
  )
  assert int(done.stdout) == expected


@pytest.mark.parametrize("cores, expected", [(1, 1), (2, 2), (3, 2), (6, 4), (8, 8), (64, 8)])
def test_usable_cores_is_a_power_of_two_that_usual_batches_divide_by(monkeypatch, cores, expected):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
  assert partitioning.usable_cores() == expected


@pytest.mark.parametrize(
  "sizes, shape",
  [
    ({}, (8, 1, 1)),
    ({"data": 2, "fsdp": -1}, (2, 4, 1)),
    ({"fsdp": 2, "model": 2}, (2, 2, 2)),
    ({"data": 1, "fsdp": 1, "model": 8}, (1, 1, 8)),
  ],
)
def test_one_size_of_a_mesh_may_be_what_is_left(sizes, shape):
  assert tuple(partitioning.make_mesh(sizes).shape.values()) == shape


@pytest.mark.parametrize(
  "sizes, expected",
  [
    ({"fsdp": 3}, "share 8 device.s., got data=-1 x fsdp=3 x model=1"),
    ({"fsdp": -1}, "at most one size of -1"),
    ({"data": 2}, "got data=2 x fsdp=1 x model=1"),
  ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes, expected):
  with pytest.raises(UserError, match=expected):
    partitioning.make_mesh(sizes)


T5 = t5.T5Config(
  vocab_size=62, d_model=16, d_ff=32, num_heads=4, d_kv=8, encoder_layers=2, decoder_layers=2
)
LLAMA = decoder.LlamaConfig(
  vocab_size=64, d_model=16, d_ff=32, num_heads=4, num_kv_heads=2, d_kv=8, layers=2, max_length=64
)


UMT5 = dataclasses.replace(T5, bias_in_every_layer=True)


@pytest.mark.parametrize("config", [T5, UMT5, LLAMA])
def test_every_weight_has_a_rule_and_matrices_are_cut_both_ways(config):
  params = jax.eval_shape(lambda: families.of(config).init(config, jax.random.key(0)))
  mesh = partitioning.make_mesh({"fsdp": 2, "model": 4})
  for name, leaf in tree_files.flat_leaves(params).items():
    assert any(re.search(pattern, name) for pattern, _ in sharding.RULES), name
    spec = sharding.spec(name, leaf.shape, mesh.shape)
    if name.endswith("relative_bias"):
      assert spec[-2:] == (None, "model")
    if name.endswith(("query", "gate", "down", "out")):
      assert set(spec) == {None, "fsdp", "model"}
    assert all(size % mesh.shape[axis] == 0 for size, axis in zip(leaf.shape, spec) if axis)
  assert sharding.spec("embedding", (62, 16), mesh.shape) == (None, "fsdp"), (
    "62 tokens cannot be cut in 4"
  )


def batch_of(config, rows=16):
  rng = np.random.default_rng(0)
  if config is LLAMA:
    return {
      "tokens": rng.integers(3, 64, (rows, 10)).astype(np.int32),
      "weights": (rng.random((rows, 10)) < 0.7).astype(np.float32),
    }
  return {
    "inputs": rng.integers(3, 60, (rows, 7)).astype(np.int32),
    "targets": rng.integers(3, 60, (rows, 5)).astype(np.int32),
    "weights": (rng.random((rows, 5)) < 0.7).astype(np.float32),
  }


class Repeated:
  """The same few batches again and again."""

  def __init__(self, config):
    self.config, self.number = config, 0

  def __next__(self):
    self.number += 1
    return {
      name: np.roll(array, self.number, axis=0) for name, array in batch_of(self.config).items()
    }


def train(config, mesh, parallel="mesh", optimizer="adamw", accumulate=1):
  loss = functools.partial(train_step.loss_fn, model_config=config)
  chain = optimizers.make_optimizer(optimizers.OptimizerConfig(optimizer, 1e-3, clip=1.0, ema=0.9))
  step_fn = train_step.make_train_step(
    loss, chain, accumulate, drivers.AXIS if parallel == "pmap" else None
  )
  state = train_step.init_state(families.of(config).init(config, jax.random.key(0)), chain)
  return loop.train(
    state,
    step_fn,
    Repeated(config),
    steps=20,
    key=jax.random.key(1),
    options=loop.Options(mesh=mesh, parallel=parallel),
  )


@pytest.fixture(scope="module")
def alone():
  return functools.cache(lambda config, optimizer: train(config, None, optimizer=optimizer))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
  "config, sizes, parallel, optimizer, accumulate",
  [
    (T5, {"data": 2, "fsdp": 2, "model": 2}, "mesh", "adamw", 2),
    (LLAMA, {}, "pmap", "adamw", 1),
    *(
      pytest.param(config, *case, marks=SLOW)
      for config in (T5, LLAMA)
      for case in [
        ({}, "mesh", "adamw", 1),
        ({"fsdp": 4}, "mesh", "adamw", 1),
        ({"data": 1, "model": 8}, "mesh", "adafactor", 1),
        ({}, "pmap", "adafactor", 2),
      ]
    ),
    pytest.param(LLAMA, {"data": 2, "fsdp": 2, "model": 2}, "mesh", "adamw", 2, marks=SLOW),
    pytest.param(T5, {}, "pmap", "adamw", 1, marks=SLOW),
  ],
)
def test_twenty_steps_on_every_mesh_and_by_pmap_are_those_of_one_device(
  alone, config, sizes, parallel, optimizer, accumulate
):
  found = train(config, partitioning.make_mesh(sizes), parallel, optimizer, accumulate)
  for name, leaf in tree_files.flat_leaves(alone(config, optimizer)["params"]).items():
    np.testing.assert_allclose(
      np.asarray(tree_files.flat_leaves(found["params"])[name]),
      np.asarray(leaf),
      atol=2e-5,
      err_msg=name,
    )


def test_optimizer_state_is_cut_as_its_parameter():
  found = train(LLAMA, partitioning.make_mesh({"fsdp": 4, "model": 2}))
  leaves = tree_files.flat_leaves(found["opt_state"])
  moments = [leaf for name, leaf in leaves.items() if name.endswith("layers/feed_forward/gate")]
  assert len(moments) == 3, "two moments and the moving average"
  for leaf in [*moments, found["params"]["layers"]["feed_forward"]["gate"]]:
    assert leaf.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "model")
    assert leaf.addressable_shards[0].data.shape == (2, 4, 16)


def test_pmap_refuses_a_mesh_that_cuts_weights():
  with pytest.raises(UserError, match="parallel='pmap' holds all weights"):
    drivers.driver(partitioning.make_mesh({"fsdp": 2}), "pmap")
