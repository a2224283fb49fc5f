"""Leaves as plain files: what others read of them, block by block, and digests old and new."""

import hashlib
import json

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from factshock.checkpoints import leaf_files, store, tree_files
from factshock.checkpoints.manifest import NAME as MANIFEST_NAME
from factshock.runtime.errors import UserError

TREE = {
  "a": {
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.arange(6).astype(ml_dtypes.bfloat16),
  },
  "count": np.int32(7),
  "flag": np.array([True, False]),
  "zeros": np.zeros((2, 2), np.float16),
}


def test_orbax_reads_what_is_written(tmp_path):
  store.save(tmp_path, 1, params=TREE)
  found = ocp.PyTreeCheckpointer().restore(tmp_path / "1" / "params")
  for name, leaf in tree_files.flat_leaves(TREE).items():
    other = np.asarray(tree_files.flat_leaves(found)[name])
    assert other.dtype == np.asarray(leaf).dtype and other.shape == np.shape(leaf)
    np.testing.assert_array_equal(other, leaf)
  assert (tmp_path / "1" / "params" / "a.kernel" / "0.0.0").read_bytes() == TREE["a"][
    "kernel"
  ].tobytes()


def test_what_orbax_writes_is_read(tmp_path):
  """Leaves that are laid out otherwise, as several processes write them: in chunks, or
  compressed.
  """
  store.save(tmp_path, 1, params={"w": np.arange(64, dtype=np.float32).reshape(8, 8)})
  folder = tmp_path / "1" / "params"
  tree = {"w": np.arange(64, dtype=np.float32).reshape(8, 8)}
  for path in folder.rglob("*"):
    path.is_file() and path.unlink()
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:  # compressed
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree), force=True)
  assert not leaf_files.is_plain(folder / "w", (8, 8), np.float32)
  np.testing.assert_array_equal(store.restore(tmp_path)["params"]["w"], tree["w"])
  leaf = store.read_manifest(tmp_path)["leaves"]["params/w"]
  blocks = list(tree_files.leaf_blocks(str(tmp_path / "1"), "params/w", leaf, [30, 34]))
  np.testing.assert_array_equal(np.concatenate(blocks), tree["w"].ravel())


def test_sha256_digests_of_older_checkpoints_are_verified(tmp_path):
  store.save(tmp_path, 1, params={"w": TREE["a"]["kernel"]})
  path = tmp_path / "1" / MANIFEST_NAME
  manifest = json.loads(path.read_text())
  del manifest["file_digest"]
  manifest["leaves"]["params/w"]["digest"] = hashlib.sha256(
    b"float32(2, 3, 4)" + TREE["a"]["kernel"].tobytes()
  ).hexdigest()
  path.write_text(json.dumps(manifest))
  np.testing.assert_array_equal(store.restore(tmp_path)["params"]["w"], TREE["a"]["kernel"])
  data = tmp_path / "1" / "params" / "w" / "0.0.0"
  data.write_bytes(data.read_bytes()[:-1] + b"x")
  with pytest.raises(UserError, match="leaf params/w are damaged"):
    store.restore(tmp_path)
  leaf = manifest["leaves"]["params/w"]
  with pytest.raises(UserError, match="leaf params/w are damaged"):
    list(tree_files.leaf_blocks(str(tmp_path / "1"), "params/w", leaf, [24]))


@hypothesis.given(st.integers(1, 4), st.integers(1, 50), st.integers(1, 40))
def test_blocks_are_those_of_the_layers_in_turn(layers, part, block):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(leaf_files, "BLOCK", block)
    counts = leaf_files.counts(layers, layers * part)
  for layer in range(layers):
    assert sum(count for of, count in counts if of == layer) == part
  assert all(1 <= count <= block for _, count in counts) and [
    layer for layer, _ in counts
  ] == sorted(layer for layer, _ in counts)


def test_blocks_that_are_not_the_leaf_are_refused(tmp_path):
  with pytest.raises(ValueError, match="expected 48 bytes of a leaf .3, 4., got 40"):
    leaf_files.write(tmp_path / "leaf", (3, 4), np.float32, [np.zeros(10, np.float32)])
