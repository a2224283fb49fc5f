"""Meshes, shards, and the devices a CPU host shows."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from factshock.console import UserError
from factshock.training import partitioning


def test_the_mesh_has_all_local_devices_on_an_auto_data_axis():
  mesh = partitioning.make_mesh()
  assert dict(mesh.shape) == {"data": 8}
  assert mesh.axis_types == (jax.sharding.AxisType.Auto,)
  with jax.set_mesh(mesh):
    batch = partitioning.shard_batch({"x": np.ones((8, 2), np.float32)}, mesh)
    assert float(jax.jit(lambda x: (x * 2).sum())(batch["x"])) == 32


def test_a_batch_is_cut_and_parameters_are_whole():
  mesh = partitioning.make_mesh(jax.devices()[:4])
  array = np.arange(24, dtype=np.int32).reshape(8, 3)
  sharded = partitioning.shard_batch({"inputs": array}, mesh)["inputs"]
  assert [shard.data.shape for shard in sharded.addressable_shards] == [(2, 3)] * 4
  np.testing.assert_array_equal(np.asarray(sharded), array)
  whole = partitioning.replicate({"w": array}, mesh)["w"]
  assert [shard.data.shape for shard in whole.addressable_shards] == [(8, 3)] * 4


def test_a_batch_that_does_not_divide_names_both_numbers():
  with pytest.raises(UserError, match="8 devices share evenly, got 12 .targets.; choose a multiple of 8"):
    partitioning.shard_batch({"inputs": np.ones((16, 2)), "targets": np.ones((12, 2))},
                             partitioning.make_mesh())


def test_a_negative_count_of_cpu_devices_is_refused():
  with pytest.raises(UserError, match=">= 0"):
    partitioning.use_cpu_devices(-1)


@pytest.mark.parametrize("count, forced, expected", [(3, "", 3), (0, "", partitioning.usable_cores()),
                                                     (2, "--xla_force_host_platform_device_count=5", 5)])
def test_use_cpu_devices_in_a_fresh_process(count, forced, expected):
  code = ("import jax; from factshock.training import partitioning; "
          f"partitioning.use_cpu_devices({count}); print(len(jax.devices()))")
  done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": forced},
                        capture_output=True, text=True, check=True)
  assert int(done.stdout) == expected


@pytest.mark.parametrize("cores, expected", [(1, 1), (2, 2), (3, 2), (6, 4), (8, 8), (64, 8)])
def test_usable_cores_is_a_power_of_two_that_usual_batches_divide_by(monkeypatch, cores, expected):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
  assert partitioning.usable_cores() == expected
