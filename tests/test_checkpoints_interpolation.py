"""Interpolation against numpy, in memory and on disk, by depth, in little memory; and what is
refused.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.checkpoints import interpolation, mix_record, mixing, store
from factshock.models import t5
from factshock.runtime.errors import UserError

CONFIG = t5.T5Config(
  vocab_size=16, d_model=8, d_ff=12, num_heads=2, d_kv=4, encoder_layers=2, decoder_layers=3
)


def make_tree(seed, dtype=np.float32, rows=4):
  rng = np.random.default_rng(seed)
  tree = {
    "a": {"kernel": rng.normal(size=(rows, 5)), "scale": rng.normal(size=(3,))},
    "b": rng.normal(),
  }
  return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)


def average(trees, weights):
  """The oracle: float64, rounded once to the stored type."""

  def leaf(*values):
    total = sum(weight * value.astype(np.float64) for weight, value in zip(weights, values))
    return total.astype(values[0].dtype)

  return jax.tree.map(leaf, *trees)


def assert_close(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert x.dtype == y.dtype and x.shape == y.shape
    # bfloat16 has 8 bits: a sum on the edge between two values may go either way
    tolerance = 1e-6 if y.dtype == np.float32 else 2**-7
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
  st.lists(st.floats(-1, 2), min_size=1, max_size=3), st.sampled_from([np.float32, jnp.bfloat16])
)
def test_interpolate_is_numpys_weighted_average(some, dtype):
  weights = [*some, 1 - sum(some)]
  trees = [make_tree(seed, dtype) for seed in range(len(weights))]
  assert_close(interpolation.interpolate(trees, weights), average(trees, weights))


def test_sums_are_in_float32_whatever_is_stored():
  ones = {"w": np.full((4,), 1.0, jnp.bfloat16)}
  tiny = {"w": np.full((4,), 2.0**-9, jnp.bfloat16)}
  weights = [1.0] + [1.0] * 4 + [-4.0]  # in bfloat16 each 1 + 2**-9 rounds back to 1
  zero = {"w": np.zeros((4,), jnp.bfloat16)}
  result = interpolation.interpolate([ones, tiny, tiny, tiny, tiny, zero], weights)
  assert float(result["w"][0]) == 1.0 + 2.0**-7


def test_uniform_and_end_points_and_profiles():
  a, b, c = (make_tree(seed) for seed in range(3))
  assert_close(interpolation.interpolate([a, b, c], "uniform"), average([a, b, c], [1 / 3] * 3))
  points = {alpha: interpolation.mix_by_profile(a, b, alpha) for alpha in (0.0, 0.5, 1.0)}
  for got, expected in ((points[0.0], a), (points[1.0], b)):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), y), got, expected)
  assert_close(points[0.5], average([a, b], [0.5, 0.5]))


def a_t5(seed):
  config = t5.T5Config(
    vocab_size=12, d_model=8, d_ff=12, num_heads=2, d_kv=4, encoder_layers=2, decoder_layers=2
  )
  return t5.init(config, jax.random.key(seed))


@pytest.mark.parametrize(
  "profile, ends", [("decreasing", (0.6, 0.0)), ("increasing", (0.0, 0.6)), ("uniform", (0.6, 0.6))]
)
def test_a_profile_is_linear_in_depth(profile, ends):
  a, b = a_t5(0), a_t5(1)
  mixed = interpolation.mix_by_profile(a, b, 0.6, profile)
  assert_close(mixed, interpolation.interpolate_layerwise(a, b, *ends))
  for name, alpha in (("embedding", ends[0]), ("head", ends[1])):
    np.testing.assert_allclose(
      mixed[name], (1 - alpha) * a[name] + alpha * b[name], rtol=1e-5, atol=1e-6
    )


def test_parts_are_exchanged_and_no_others():
  """The last decoder layer and the head from one tree, all else from the other; and the reverse."""
  a, b = a_t5(0), a_t5(1)
  mixed, reverse = (
    interpolation.exchange(a, b, ("last_layer", "head")),
    interpolation.exchange(b, a, ("last_layer", "head")),
  )
  for tree, inside, outside in ((mixed, a, b), (reverse, b, a)):
    np.testing.assert_array_equal(tree["head"], inside["head"])
    np.testing.assert_array_equal(tree["embedding"], outside["embedding"])
    jax.tree.map(np.testing.assert_array_equal, tree["encoder"], outside["encoder"])
    for got, last, others in zip(
      *(jax.tree.leaves(one["decoder"]["layers"]) for one in (tree, inside, outside))
    ):
      np.testing.assert_array_equal(got[-1], last[-1])
      np.testing.assert_array_equal(got[:-1], others[:-1])
  with pytest.raises(UserError, match="part 'tail': expected one of embedding, head"):
    interpolation.exchange(a, b, ("tail",))


def test_the_mesh_of_the_inputs_is_kept():
  from factshock.devices import partitioning

  mesh = partitioning.make_mesh()
  trees = [partitioning.place_params(make_tree(seed), mesh) for seed in (0, 1)]
  mixed = interpolation.interpolate(trees, "uniform")
  assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(mixed))


@pytest.mark.parametrize(
  "weights, message",
  [
    ([0.5], "expected 2 weights, one for each, got 1"),
    ([0.3, 0.6], r"sum to 1, got 0.3 \+ 0.6 = 0.9"),
    ([float("nan"), 1.0], "sum to 1"),
  ],
)
def test_weights_that_do_not_fit(weights, message):
  with pytest.raises(UserError, match=message):
    interpolation.interpolate([make_tree(0), make_tree(1)], weights)


def test_trees_that_differ_are_refused_with_every_leaf(tmp_path):
  a, b = make_tree(0), make_tree(1, rows=6)
  b["extra"] = b.pop("b")
  for number, tree in enumerate((a, b)):
    store.save(tmp_path / str(number), 1, params=tree)
  paths = [tmp_path / "0", tmp_path / "1"]
  for call in (
    lambda: interpolation.interpolate([a, b], "uniform"),
    lambda: mixing.mix_checkpoints(paths, "uniform", tmp_path / "out"),
  ):
    with pytest.raises(UserError) as caught:
      call()
    for part in (
      "missing",
      "b float32[]",
      "extra",
      "extra float32[]",
      "kernel expected float32[4,5] got float32[6,5]",
    ):
      assert part in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_layerwise_alphas_grow_linearly_in_depth():
  params = jax.eval_shape(lambda: t5.init(CONFIG, jax.random.key(0)))
  alphas = interpolation.layerwise_weights(params, 0.0, 1.0)
  sixth = lambda *numbers: np.asarray(numbers, np.float32) / 6  # 2 + 3 layers, then the head
  np.testing.assert_allclose(alphas["embedding"], 0)
  np.testing.assert_allclose(
    np.ravel(alphas["encoder"]["layers"]["feed_forward"]["down"]), sixth(1, 2)
  )
  norms = alphas["decoder"]["layers"]["cross_attention_norm"]["scale"]
  np.testing.assert_allclose(np.ravel(norms), sixth(3, 4, 5))
  np.testing.assert_allclose(alphas["encoder"]["relative_bias"], 1 / 6, rtol=1e-6)
  np.testing.assert_allclose(alphas["decoder"]["relative_bias"], 1 / 2, rtol=1e-6)
  np.testing.assert_allclose(alphas["encoder"]["final_norm"]["scale"], 1 / 3, rtol=1e-6)
  np.testing.assert_allclose(alphas["decoder"]["final_norm"]["scale"], 1)
  np.testing.assert_allclose(alphas["head"], 1)


def test_layerwise_interpolation_against_numpy_and_on_disk(tmp_path):
  shapes = jax.eval_shape(lambda: t5.init(CONFIG, jax.random.key(0)))
  rng = np.random.default_rng(0)
  a, b = (
    jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    for _ in range(2)
  )
  alphas = interpolation.layerwise_weights(a, 0.9, 0.1)
  expected = jax.tree.map(lambda x, y, alpha: (1 - alpha) * x + alpha * y, a, b, alphas)
  assert_close(interpolation.interpolate_layerwise(a, b, 0.9, 0.1), expected)
  same = interpolation.interpolate_layerwise(a, b, 0.3, 0.3)
  assert_close(same, average([a, b], [0.7, 0.3]))
  for name, tree in (("a", a), ("b", b)):
    store.save(tmp_path / name, 1, params=tree)
  paths = [tmp_path / "a", tmp_path / "b"]
  mixing.mix_checkpoints(paths, None, tmp_path / "out", layerwise=(0.9, 0.1))
  assert_close(store.restore_params(tmp_path / "out"), expected)


def test_layerwise_needs_a_t5():
  with pytest.raises(UserError, match="stacked layers under encoder/layers"):
    interpolation.layerwise_weights(make_tree(0), 0.0, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_mixing_on_disk_is_mixing_in_memory_with_provenance(tmp_path, dtype):
  trees = [make_tree(seed, dtype) for seed in range(3)]
  for number, tree in enumerate(trees):
    store.save(
      tmp_path / f"run{number}", 10 + number, params=tree, opt_state=tree, config={"name": number}
    )
  weights = [0.2, 0.3, 0.5]
  paths = [tmp_path / f"run{number}" for number in range(3)]
  result = mixing.mix_checkpoints(paths, weights, tmp_path / "out")
  restored = store.restore(tmp_path / "out", like={"params": trees[0]})
  assert_close(restored["params"], average(trees, weights))
  assert restored["opt_state"] is None and restored["config"] == {"name": 0}
  provenance = mix_record.read(tmp_path / "out")
  assert provenance == result
  assert provenance["weights"] == weights
  assert [entry["step"] for entry in provenance["inputs"]] == [10, 11, 12]
  assert len({entry["digest"] for entry in provenance["inputs"]} | {provenance["digest"]}) == 4
  with pytest.raises(UserError, match="out: already exists"):
    mixing.mix_checkpoints(paths, weights, tmp_path / "out")


def test_integer_leaves_and_damaged_inputs_are_refused(tmp_path):
  store.save(tmp_path / "ints", 1, params={"w": np.arange(3)})
  with pytest.raises(UserError, match="params/w is not floating point"):
    mixing.mix_checkpoints([tmp_path / "ints"] * 2, "uniform", tmp_path / "out")
  store.save(tmp_path / "a", 1, params=make_tree(0))
  path = tmp_path / "a" / "1" / "params" / "a.kernel" / "0.0"
  path.write_bytes(b"\0" * len(path.read_bytes()))
  with pytest.raises(UserError, match="data of leaf params/a/kernel are damaged"):
    mixing.mix_checkpoints([tmp_path / "a"] * 2, "uniform", tmp_path / "out")
  assert sorted(os.listdir(tmp_path)) == ["a", "ints"]


MEMORY = """
import resource, sys
import numpy as np
from factshock.checkpoints import mixing, store, tree_files
folder = sys.argv[1]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def leaf(value):  # computed when it is written, so that the models are never whole here
  whole = lambda: np.full(4 << 20, value, np.float32)
  return tree_files.Lazy((4 << 20,), np.dtype(np.float32), whole)
before = peak()
for name, value in (("a", 1.0), ("b", 3.0)):
  store.write(f"{folder}/{name}", {"params": {f"w{i}": leaf(value * i) for i in range(16)}},
                    {"step": 1, "loader_state": None, "config": None})
mixing.mix_checkpoints([f"{folder}/a", f"{folder}/b"], [0.5, 0.5], f"{folder}/out")
after = peak()
leaves = store.read_manifest(f"{folder}/out")["leaves"]
assert (tree_files.read_leaf(f"{folder}/out", "params/w3", leaves) == 6.0).all()
print((after - before) / 1024 * (1 / 1024 if sys.platform == "darwin" else 1))
"""


def test_mixing_holds_a_few_leaves_and_not_whole_models(tmp_path):
  """Two models of 16 leaves of 16 MiB give a third, 768 MiB in all: few leaves are in memory at
  once.
  """
  done = subprocess.run(
    [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
  )
  grown = float(
    done.stdout
  )  # about 60 MiB are the libraries' buffers, whatever the size of the leaves
  assert grown < 60 + 6 * 16, f"grew by {grown:.0f} MiB"
  assert not done.stderr


@pytest.mark.parametrize("profile", ["uniform", "decreasing"])
def test_memory_of_a_mixture_before_is_used_again(profile):
  a, b = a_t5(0), a_t5(1)
  before = interpolation.mix_by_profile(a, b, 0.3, profile)
  pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(before)]
  again = interpolation.mix_by_profile(a, b, 0.6, profile, into=before)
  assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(again)] == pointers
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
  fresh = interpolation.mix_by_profile(a, b, 0.6, profile)
  jax.tree.map(np.testing.assert_array_equal, again, fresh)
