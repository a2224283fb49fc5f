"""Checkpoints: exact, whole or absent, verified; and every way a save or a restore can fail."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from factshock.checkpoints import store, tree_files
from factshock.runtime.errors import UserError


def make_params(seed=0, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(seed), 3)
  return {
    "encoder": {
      "kernel": jax.random.normal(keys[0], (4, 5)).astype(dtype),
      "scale": jnp.float32(1.5),
    },
    "head": jax.random.normal(keys[1], (5, 3)).astype(dtype),
  }


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), a, b
  )


@pytest.mark.parametrize(
  "optimizer",
  [
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    optax.adafactor(1e-3),
    optax.sgd(0.1),
  ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_whole_training_state_comes_back_exactly(tmp_path, optimizer, dtype):
  params = make_params(dtype=dtype)
  _, opt_state = jax.jit(lambda: optimizer.update(params, optimizer.init(params), params))()
  store.save(
    tmp_path, 3, params=params, opt_state=opt_state, loader_state={"next": 12}, config={"lr": 0.1}
  )
  like = jax.eval_shape(lambda: {"params": params, "opt_state": opt_state})
  restored = store.restore(tmp_path, like=like)
  assert_same(params, restored["params"])
  assert_same(opt_state, restored["opt_state"])
  assert (restored["step"], restored["loader_state"], restored["config"]) == (
    3,
    {"next": 12},
    {"lr": 0.1},
  )
  assert_same(params, store.restore_params(tmp_path / "3"))


def test_orbax_alone_reads_the_parameters(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  with ocp.PyTreeCheckpointer() as reader:
    assert_same(
      make_params(), jax.tree.map(np.asarray, reader.restore(tmp_path.resolve() / "1" / "params"))
    )


def test_the_newest_complete_step_counts_and_old_ones_go(tmp_path):
  assert store.latest_step(tmp_path / "absent") is None
  for step in (1, 2, 10):
    store.save(tmp_path, step, params=make_params(step), keep=2)
  (tmp_path / "11").mkdir()  # a folder without a manifest is no checkpoint
  assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdecimal()) == [
    "10",
    "11",
    "2",
  ]
  assert store.latest_step(tmp_path) == 10
  assert_same(make_params(10), store.restore_params(tmp_path))
  assert_same(make_params(2), store.restore_params(tmp_path, 2))


def test_an_existing_step_is_not_overwritten(tmp_path):
  store.save(tmp_path, 1, params=make_params(1))
  with pytest.raises(UserError, match="already exists.*last good checkpoint is step 1"):
    store.save(tmp_path, 1, params=make_params(2))
  assert_same(make_params(1), store.restore_params(tmp_path))


def array_file(folder, leaf):
  files = [path for path in (folder / "params" / leaf).iterdir() if not path.name.startswith(".z")]
  assert len(files) == 1
  return files[0]


def test_one_flipped_bit_is_found_and_its_leaf_named(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  path = array_file(tmp_path / "1", "encoder.kernel")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  for read in (store.restore, store.restore_params):
    with pytest.raises(UserError, match="data of leaf params/encoder/kernel are damaged"):
      read(tmp_path)


def test_a_truncated_or_missing_array_is_one_error(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  path = array_file(tmp_path / "1", "head")
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(UserError, match="params(/head)?: the checkpoint cannot be read"):
    store.restore(tmp_path)
  shutil.rmtree(path.parent)
  with pytest.raises(UserError, match="params(/head)?: the checkpoint cannot be read"):
    store.restore(tmp_path)


def test_a_broken_manifest_is_one_error(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  manifest = tmp_path / "1" / "manifest.json"
  value = json.loads(manifest.read_text())
  del value["file_digest"]  # as older ones are
  manifest.write_text(json.dumps(value))
  assert_same(make_params(), store.restore_params(tmp_path))
  manifest.write_text(json.dumps({**value, "format": 99}))
  with pytest.raises(UserError, match="expected format 1, got 99"):
    store.restore(tmp_path)
  for text in ("{", "[]", "{}"):
    manifest.write_text(text)
    with pytest.raises(UserError, match="manifest.json: expected .*(manifest|JSON)"):
      store.restore(tmp_path)


def test_folders_that_hold_no_checkpoint(tmp_path):
  with pytest.raises(UserError, match="nothing there"):
    store.restore(tmp_path / "absent")
  with pytest.raises(UserError, match="expected a checkpoint, got none"):
    store.restore(tmp_path)
  store.save(tmp_path, 1, params=make_params())
  with pytest.raises(UserError, match=r"the checkpoint of step 2, got only steps \[1\]"):
    store.restore(tmp_path, 2)


def test_another_model_names_every_leaf_in_one_error(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  other = make_params(dtype=jnp.bfloat16)
  other["encoder"]["bias"] = jnp.zeros((2,))
  other["encoder"]["kernel"] = jnp.zeros((4, 6))
  del other["encoder"]["scale"]
  with pytest.raises(UserError) as caught:
    store.restore(tmp_path, like={"params": other})
  for part in (
    "another model",
    "missing params/encoder/bias float32[2]",
    "extra params/encoder/scale float32[]",
    "mis-shaped params/encoder/kernel expected float32[4,6] got float32[4,5]",
    "mis-shaped params/head expected bfloat16[5,3] got float32[5,3]",
  ):
    assert part in str(caught.value)


def test_parameters_alone_do_not_pass_for_a_training_state(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  with pytest.raises(UserError, match="missing opt_state/"):
    store.restore(
      tmp_path, like={"params": make_params(), "opt_state": optax.adam(1.0).init(make_params())}
    )


def assert_disk_full_left_the_last_good_step(error, folder):
  assert "could not be saved" in str(error) and "last good checkpoint is step 1" in str(error)
  assert sorted(os.listdir(folder)) == ["1"]
  assert_same(make_params(1), store.restore_params(folder))


@pytest.mark.parametrize(
  "error",
  [
    OSError(28, "No space left on device"),
    ValueError("RESOURCE_EXHAUSTED: write: No space left on device [OS error 28]"),
  ],
)
def test_a_full_disk_leaves_the_last_good_step(tmp_path, monkeypatch, error):
  store.save(tmp_path, 1, params=make_params(1))

  def fail(*unused, **unused_too):
    raise error

  monkeypatch.setattr(ocp.Checkpointer, "save", fail)
  with pytest.raises(UserError, match="No space left on device") as caught:
    store.save(tmp_path, 2, params=make_params(2))
  monkeypatch.undo()
  assert_disk_full_left_the_last_good_step(caught.value, tmp_path)


def test_a_disk_that_is_really_full(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
  )
  if mounted.returncode:
    pytest.skip("mounting a small disk needs root")
  try:
    store.save(disk, 1, params=make_params(1))
    with pytest.raises(UserError, match="No space left on device") as caught:
      store.save(disk, 2, params={"w": np.random.default_rng(0).normal(size=(2, 10**6))})
    assert_disk_full_left_the_last_good_step(caught.value, disk)
  finally:
    subprocess.run(["umount", disk], check=True)


def test_a_file_size_limit_counts_as_a_full_disk(tmp_path):
  store.save(tmp_path, 1, params=make_params(1))
  code = f"""
import resource
import numpy as np
from factshock.checkpoints import store, tree_files
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
try:
  store.save({str(tmp_path)!r}, 2, params={{"w": np.ones((1000, 1000), np.float32)}})
except store.UserError as error:
  print(error)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert "File too large" in done.stdout
  assert_disk_full_left_the_last_good_step(done.stdout, tmp_path)


def test_an_interrupt_leaves_nothing(tmp_path):
  def stop():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    leaf = tree_files.Lazy((1,), np.dtype("float32"), stop)
    store.write(tmp_path / "x", {"params": {"w": leaf}}, {})
  assert not os.listdir(tmp_path)


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8 % len(data)] ^= 1 << bit % 8
  path.write_bytes(data)


def test_each_flipped_bit_of_a_checkpoint_is_one_error_or_changes_nothing(tmp_path):
  """Flips single bits of the manifest, of every leaf's file and of what zarr says of it."""
  params = make_params()
  config = {"lr": 1e-05, "text": "a b", "more": None}
  loader_state = {"next": [1, 20]}
  store.save(tmp_path, 1, params=params, opt_state=params, loader_state=loader_state, config=config)
  whole = store.restore(tmp_path)
  random = np.random.default_rng(0)
  files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
  manifest = tmp_path / "1" / "manifest.json"
  for path in [manifest] * 300 + [files[i] for i in random.integers(0, len(files), 200)]:
    content = path.read_bytes()
    flip(path, int(random.integers(0, 8 * max(1, len(content)))))
    try:
      restored = store.restore(tmp_path)
      assert path != manifest
      assert_same(restored["params"], whole["params"])
    except UserError as error:
      assert isinstance(error, tree_files.Damaged) and str(tmp_path) in str(error)
    path.write_bytes(content)
  assert_same(store.restore(tmp_path)["params"], whole["params"])


def older(path, change):
  """Changes a manifest as it was once, without a digest."""
  value = json.loads(path.read_text())
  del value["file_digest"]
  change(value)
  path.write_text(json.dumps(value))


@pytest.mark.parametrize(
  "change",
  [
    lambda value: value.update(step="1"),
    lambda value: value.update(step=True),
    lambda value: value.update(config=[1]),
    lambda value: value.update(leaves=[]),
    lambda value: value.update(extra=1),
    lambda value: value.pop("loader_state"),
    lambda value: value["leaves"].update(
      {"params/heaD": value["leaves"].pop("params/head")}  # one bit
    ),
    lambda value: value["leaves"].update({"params/head/x": value["leaves"]["params/head"]}),
    lambda value: value["leaves"].update({"params/../x": value["leaves"]["params/head"]}),
    lambda value: value["leaves"]["params/head"].update(shape=[10**12, 10**6]),
    lambda value: value["leaves"]["params/head"].update(shape=[-5, 3]),
    lambda value: value["leaves"]["params/head"].update(shape=[5.0, 3]),
    lambda value: value["leaves"]["params/head"].update(shape=15),
    lambda value: value["leaves"]["params/head"].update(shape=[10**30]),
    lambda value: value["leaves"]["params/head"].update(dtype="float31"),
    lambda value: value["leaves"]["params/head"].update(dtype="O"),
    lambda value: value["leaves"]["params/head"].update(dtype=None),
    lambda value: value["leaves"]["params/head"].update(digest=1),
    lambda value: value["leaves"]["params/head"].update(parts=[[[[0, 9], [0, 3]], "xxh3-128:0"]]),
    lambda value: value["leaves"]["params/head"].update(parts=[3]),
  ],
)
def test_values_of_a_manifest_that_cannot_be_are_one_error(tmp_path, change):
  store.save(tmp_path, 1, params=make_params())
  older(tmp_path / "1" / "manifest.json", change)
  with pytest.raises(tree_files.Damaged):
    store.restore(tmp_path)


def test_a_manifest_that_is_a_pipe_or_a_nest_is_one_error(tmp_path):
  store.save(tmp_path, 1, params=make_params())
  manifest = tmp_path / "1" / "manifest.json"
  manifest.write_text('{"leaves": ' + "[" * 100_000)
  with pytest.raises(tree_files.Damaged, match="manifest.json: expected JSON"):
    store.restore(tmp_path)
  manifest.unlink()
  os.mkfifo(manifest)
  with pytest.raises(tree_files.Damaged, match="expected a file, got a pipe"):
    store.restore(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "params/head/.zarray", "params/head/0.0"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_a_checkpoint_is_set_aside_for_the_one_before(
  tmp_path, capsys, name, make
):
  for step in (1, 2):
    store.save(tmp_path, step, params=make_params(), loader_state={"step": step})
  path = tmp_path / "2" / name
  path.unlink()
  make(path)
  assert store.restore_newest(tmp_path)["loader_state"] == {"step": 1}
  assert "set aside as" in capsys.readouterr().out
  assert sorted(os.listdir(tmp_path)) == ["1", "damaged-2"]
