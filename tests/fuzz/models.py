"""Fuzzers of models: HuggingFace folders, adapters, T5X files, checkpoints and their manifests.

What is read must be what an independent reader (the safetensors library, PyTorch, plain JSON) has
of the same files; of checkpoints, which have digests, it must be what was saved.
"""

import json
import math
import os
import pathlib
import random
import shutil
import struct
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import tensorstore
import torch
from flax import serialization

from factshock.checkpoints import conversion, store
from factshock.models import decoder, t5
from factshock.models.formats import huggingface, t5x
from factshock.models.formats.huggingface import names
from fuzz import mutations
from fuzz.frame import Case, Fuzzer, Make

LLAMA = decoder.LlamaConfig(
  vocab_size=11, d_model=8, d_ff=12, num_heads=2, num_kv_heads=1, d_kv=4, layers=2, max_length=32
)
T5 = t5.T5Config(
  vocab_size=13, d_model=8, d_ff=12, num_heads=2, d_kv=4, encoder_layers=2, decoder_layers=1
)
CONFIGS: dict[str, Any] = {"llama": LLAMA, "t5": T5}
# Keys of config.json, and our names of the same sizes.
SIZES = {
  "llama": {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "d_kv",
    "rms_norm_eps": "epsilon",
    "tie_word_embeddings": "tie_head",
  },
  "t5": {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "d_ff": "d_ff",
    "num_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_heads": "num_heads",
    "d_kv": "d_kv",
    "layer_norm_epsilon": "epsilon",
    "feed_forward_proj": "feed_forward",
    "relative_attention_num_buckets": "relative_buckets",
  },
}

Arrays = Mapping[str, np.ndarray]


def random_params(config: Any) -> Any:
  """Returns params of random numbers everywhere, norms included."""
  family = decoder if config is LLAMA else t5
  shapes = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def flat(tree: Any) -> dict[str, np.ndarray]:
  """Returns the arrays of a nested dict by key path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }


def differing(got: Arrays, expected: Arrays) -> str | None:
  """Returns which arrays differ in a bit, or None."""
  if got.keys() != expected.keys():
    return f"arrays {sorted(got.keys() ^ expected.keys())[:3]}"
  for name, array in got.items():
    other = expected[name]
    if array.shape != other.shape or array.dtype != other.dtype:
      return f"{name}: {array.dtype}{array.shape}, not {other.dtype}{other.shape}"
    if array.tobytes() != other.tobytes():
      return f"{name}: other numbers"
  return None


def change_json(rng: random.Random, path: pathlib.Path) -> None:
  """Changes values of a JSON file, or its bytes."""
  content = path.read_bytes()
  if rng.random() < 0.6:
    value = mutations.changed_value(rng, json.loads(content))
    content = mutations.dumps(value).encode("utf-8", "surrogatepass")
  else:
    content = mutations.changed_bytes(rng, content)
  path.write_bytes(content)


def change_safetensors(rng: random.Random, path: pathlib.Path) -> None:
  """Changes values of a safetensors header, or bytes anywhere in the file."""
  content = path.read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  if rng.random() < 0.6:
    value = mutations.changed_value(rng, json.loads(content[8 : 8 + length]))
    text = mutations.dumps(value).encode("utf-8", "surrogatepass")
    content = struct.pack("<Q", len(text)) + text + content[8 + length :]
  elif rng.random() < 0.5:
    content = (
      content[:8] + mutations.changed_bytes(rng, content[8 : 8 + length]) + content[8 + length :]
    )
  else:
    content = mutations.changed_bytes(rng, content)
  path.write_bytes(content)


def change_bytes(rng: random.Random, path: pathlib.Path) -> None:
  """Changes bytes of a file."""
  path.write_bytes(mutations.changed_bytes(rng, path.read_bytes()))


def replace(rng: random.Random, path: pathlib.Path) -> None:
  """Puts nothing, a pipe, a folder, a dangling link or an empty file in the place of a file."""
  path.unlink()
  kind = rng.randrange(5)
  if kind == 1:
    os.mkfifo(path)
  elif kind == 2:
    path.mkdir()
  elif kind == 3:
    path.symlink_to("nowhere")
  elif kind == 4:
    path.touch()


def change(rng: random.Random, path: pathlib.Path) -> None:
  """Changes a file as its kind asks for."""
  if rng.random() < 0.1:
    replace(rng, path)
  elif path.suffix == ".json":
    change_json(rng, path)
  elif path.suffix == ".safetensors":
    change_safetensors(rng, path)
  else:
    change_bytes(rng, path)


def folders(folder: pathlib.Path) -> Make:
  """Returns the maker of HuggingFace folders: whole, in shards, or pickled."""
  for name, config in CONFIGS.items():
    params = random_params(config)
    huggingface.save(folder / f"{name}-whole", params, config)
    huggingface.save(folder / f"{name}-shards", params, config, shard_bytes=600)
    huggingface.save(folder / f"{name}-pickled", params, config)
    weights = folder / f"{name}-pickled" / "model.safetensors"
    tensors = {key: torch.tensor(value) for key, value in _library(weights).items()}
    torch.save(tensors, folder / f"{name}-pickled" / "pytorch_model.bin")
    weights.unlink()

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    source = rng.choice(sorted(folder.iterdir()))
    shutil.copytree(source, own / "model")
    files = sorted(path for path in (own / "model").iterdir() if path.is_file())
    for path in rng.sample(files, rng.choice((1, 1, 2))):
      change(rng, path)

    return Case(lambda: _read_huggingface(own / "model"), lambda got: _wrong_folder(own, got))

  return make


def _read_huggingface(folder: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
  source = huggingface.open_source(folder, allow_pickle=True)
  return source.config, {leaf: source.read_leaf(leaf) for leaf in names.by_leaf(source.config)}


def _wrong_folder(own: pathlib.Path, got: tuple[Any, dict[str, np.ndarray]]) -> str | None:
  config, leaves = got
  folder = own / "model"
  values = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
  for key, name in SIZES["t5" if isinstance(config, t5.T5Config) else "llama"].items():
    if values.get(key) is not None and values[key] != getattr(config, name):
      return f"{key} {values[key]} was read as {getattr(config, name)}"
  try:
    tensors = _independent(folder)
  except Exception as error:  # noqa: BLE001 - the other reader refuses the file
    return f"read, where others say {error}"
  for tensor in names.tensors(config):
    leaf = leaves[tensor.leaf]
    array = leaf if tensor.layer is None else leaf[tensor.layer]
    expected = tensors.get(tensor.name, tensors.get("shared.weight"))
    assert expected is not None
    with np.errstate(all="ignore"):
      expected = (expected.T if tensor.transposed else expected).astype(array.dtype)
    if not np.array_equal(array, expected, equal_nan=True):
      return f"{tensor.name}: other numbers"
  return None


def _independent(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a folder as other libraries read them."""
  tensors: dict[str, np.ndarray] = {}
  single = folder / "model.safetensors"
  for path in [single] if single.is_file() else sorted(folder.glob("model*.safetensors")):
    tensors |= _library(path)
  if not tensors:
    loaded = torch.load(folder / "pytorch_model.bin", weights_only=True)
    tensors = {name: tensor.detach().float().numpy() for name, tensor in loaded.items()}
  return tensors


def _library(path: pathlib.Path) -> dict[str, np.ndarray]:
  return safetensors.numpy.load_file(path)


def adapters(folder: pathlib.Path) -> Make:
  """Returns the maker of adapters beside their model."""
  huggingface.save(folder / "base", random_params(LLAMA), LLAMA)
  rng = np.random.default_rng(1)
  tree: Any = {"layers": {"self_attention": {}, "feed_forward": {}}}
  for block, weight, sizes in (
    ("self_attention", "query", (8, 8)),
    ("feed_forward", "down", (12, 8)),
  ):
    tree["layers"][block][weight] = {
      "a": rng.normal(size=(2, sizes[0], 2)).astype(np.float32),
      "b": rng.normal(size=(2, 2, sizes[1])).astype(np.float32),
    }
  low_rank = huggingface.Adapters(tree, 2, 4.0, "../base")
  huggingface.write_adapters(folder / "adapters", low_rank, LLAMA)
  base = _read_huggingface(folder / "base")[1]

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    shutil.copytree(folder, own, dirs_exist_ok=True)
    path = own / "adapters" / rng.choice(("adapter_config.json", "adapter_model.safetensors"))
    change(rng, path)
    return Case(
      lambda: _read_huggingface(own / "adapters"),
      lambda got: _wrong_adapters(own / "adapters", base, got[1]),
    )

  return make


def _wrong_adapters(
  folder: pathlib.Path, base: Arrays, leaves: dict[str, np.ndarray]
) -> str | None:
  settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8-sig"))
  if settings.get("rank_pattern") or settings.get("alpha_pattern"):
    return None  # whose scales only PEFT tells; tests compare with it
  try:
    tensors = _library(folder / "adapter_model.safetensors")
  except Exception as error:  # noqa: BLE001 - the other reader refuses the file
    return f"read, where the library says {error}"
  rank = settings.get("r", 8)
  scale = settings.get("lora_alpha", 8) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
  for tensor in names.tensors(LLAMA):
    expected = base[tensor.leaf]
    got = leaves[tensor.leaf]
    if tensor.layer is not None:
      expected, got = expected[tensor.layer], got[tensor.layer]
    module = f"base_model.model.{tensor.name.removesuffix('.weight')}"
    pair = [
      value
      for letter in "AB"
      for name, value in tensors.items()
      if name in (f"{module}.lora_{letter}.weight", f"{module}.lora_{letter}.default.weight")
    ]
    with np.errstate(all="ignore"):
      if len(pair) == 2:
        expected = expected + scale * (pair[1].astype(np.float64) @ pair[0].astype(np.float64)).T
      if not np.allclose(got, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        return f"{tensor.name}: other numbers"
  return None


def t5x_files(folder: pathlib.Path) -> Make:
  """Returns the maker of T5X's msgpack files."""
  params = random_params(T5)
  leaves = flat(params)
  tree: dict[str, Any] = {}
  for tensor in names.tensors(T5):
    name, transposed = t5x._name(tensor, t5x.Form(is_gated=True, is_scanned=False))
    value = leaves[tensor.leaf]
    value = value if tensor.layer is None else value[tensor.layer]
    *parents, last = name.split("/")
    inner = tree
    for key in parents:
      inner = inner.setdefault(key, {})
    inner[last] = np.ascontiguousarray(value.T if transposed else value)
  content = serialization.msgpack_serialize({"target": tree})
  for name, array in flat(tree).items():
    _write_zarr(folder / f"target.{name.replace('/', '.')}", array)

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    if rng.random() < 0.5:
      return _zarr_case(rng, folder, own)
    path = own / "checkpoint"
    path.write_bytes(mutations.changed_bytes(rng, content))
    return Case(lambda: t5x.load(path), lambda got: _wrong_t5x(path, got))

  return make


def _write_zarr(path: pathlib.Path, array: np.ndarray) -> None:
  settings = {
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": str(path)},
    "metadata": {"compressor": {"id": "gzip", "level": 1}, "shape": array.shape, "dtype": "<f4"},
  }
  tensorstore.open(settings, create=True, open=True).result().write(array).result()


def _zarr_case(rng: random.Random, folder: pathlib.Path, own: pathlib.Path) -> Case:
  """Returns a folder of zarr arrays, one of whose files is changed."""
  shutil.copytree(folder, own / "zarr")
  expected = flat(t5x.load(folder)[0])
  path = rng.choice(sorted(path for path in (own / "zarr").rglob("*") if path.is_file()))
  if rng.random() < 0.1:
    replace(rng, path)
  elif path.name == ".zarray":
    change_json(rng, path)
    return Case(lambda: t5x.load(own / "zarr"))
  else:
    change_bytes(rng, path)
  return Case(lambda: t5x.load(own / "zarr"), lambda got: differing(flat(got[0]), expected))


def _wrong_t5x(path: pathlib.Path, got: Any) -> str | None:
  params, config = got
  tree: Any = serialization.msgpack_restore(path.read_bytes())
  tree = tree.get("optimizer", tree)
  tree = tree.get("target", tree)
  leaves = flat(params)
  for tensor in names.tensors(config):
    form = t5x.Form(is_gated=config.feed_forward != "relu", is_scanned=False)
    name, transposed = t5x._name(tensor, form)
    expected = tree
    for key in name.split("/"):
      expected = expected[key]
    leaf = leaves[tensor.leaf]
    array = leaf if tensor.layer is None else leaf[tensor.layer]
    with np.errstate(all="ignore"):
      expected = np.asarray(expected).astype(array.dtype)
    expected = expected.T if transposed else expected.reshape(array.shape)
    if not np.array_equal(array, expected, equal_nan=True):
      return f"{name}: other numbers"
  return None


def _checkpoint(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Writes a checkpoint as convert does; returns its arrays."""
  huggingface.save(folder / "hf", random_params(LLAMA), LLAMA)
  conversion.convert(folder / "hf", folder / "step", "orbax")
  return flat(store.restore_params(folder / "step"))


def checkpoints(folder: pathlib.Path) -> Make:
  """Returns the maker of checkpoints in which a file other than the manifest is changed."""
  saved = _checkpoint(folder)

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    shutil.copytree(folder / "step", own / "step")
    files = [path for path in sorted((own / "step").rglob("*")) if path.is_file()]
    path = rng.choice([path for path in files if path.name != "manifest.json"])
    change(rng, path)
    return Case(lambda: flat(store.restore_params(own / "step")), lambda got: differing(got, saved))

  return make


def manifests(folder: pathlib.Path) -> Make:
  """Returns the maker of changed manifests, with the digest of their text and without.

  With it nothing but what was saved may be read; without it no other arrays.
  """
  saved = _checkpoint(folder)
  content = (folder / "step" / "manifest.json").read_bytes()
  older = json.loads(content)
  whole = dict(older)
  del older["file_digest"]

  def make(rng: random.Random, own: pathlib.Path) -> Case:
    shutil.copytree(folder / "step", own / "step")
    path = own / "step" / "manifest.json"
    is_sealed = rng.random() < 0.5
    if is_sealed:
      path.write_bytes(mutations.changed_bytes(rng, content))
    else:
      text = mutations.dumps(mutations.changed_value(rng, older))
      path.write_bytes(text.encode("utf-8", "surrogatepass"))

    def wrong(got: Mapping[str, np.ndarray]) -> str | None:
      if is_sealed and json.loads(path.read_bytes()) != whole:
        return "a changed manifest was read"
      return differing(got, saved)

    return Case(lambda: _read_converted(own / "step"), wrong)

  return make


def _read_converted(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a checkpoint's arrays through what its record says of the model."""
  source = conversion.open_source(str(folder))
  return {leaf: source.read(leaf) for leaf in names.by_leaf(source.config)}


FUZZERS: dict[str, Fuzzer] = {
  "huggingface": folders,
  "adapters": adapters,
  "t5x": t5x_files,
  "checkpoints": checkpoints,
  "manifests": manifests,
}
