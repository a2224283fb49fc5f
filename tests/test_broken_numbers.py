"""Numbers, sizes and files of models that cannot be: refused in a line where they come in."""

import json
import os
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from factshock.checkpoints import conversion, mixing, store
from factshock.models import decoder, t5
from factshock.models.formats import finite, huggingface, t5x
from factshock.runtime.errors import UserError

LLAMA = decoder.LlamaConfig(
  vocab_size=11, d_model=8, d_ff=12, num_heads=2, num_kv_heads=1, d_kv=4, layers=2, max_length=32
)
T5 = t5.T5Config(
  vocab_size=13, d_model=8, d_ff=12, num_heads=2, d_kv=4, encoder_layers=1, decoder_layers=1
)
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_no_numbers(dtype):
  array = np.linspace(-4, 4, 70).astype(dtype).reshape(7, 10)
  assert finite.is_finite(array) and finite.is_finite(array.T) and finite.is_finite(array[:0])
  assert finite.is_finite(np.array([ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min], dtype))
  for value in (np.nan, -np.nan, np.inf, -np.inf):
    broken = array.copy()
    broken[3, 5] = value
    assert not finite.is_finite(broken) and not finite.is_finite(broken.T)


def save(folder, config=LLAMA, seed=0, broken=None, value=np.nan):
  family = decoder if config is LLAMA else t5
  params = jax.tree.map(np.array, family.init(config, jax.random.key(seed)))
  if broken:
    leaf = params
    for key in broken.split("/"):
      leaf = leaf[key]
    leaf.reshape(-1)[-1] = value
  huggingface.save(folder, params, config)
  return folder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("to", ["huggingface", "orbax"])
def test_convert_names_the_tensor_that_holds_nan(tmp_path, value, to):
  source = save(tmp_path / "a", broken="layers/feed_forward/down", value=value)
  with pytest.raises(UserError, match=r"model.layers.1.mlp.down_proj.weight: holds NaN"):
    conversion.convert(source, tmp_path / "out", to)
  assert sorted(os.listdir(tmp_path)) == ["a"]


def test_convert_to_a_dtype_that_is_too_small(tmp_path):
  source = save(tmp_path / "a", broken="embedding", value=3.4e38)
  with pytest.raises(UserError, match=r"model.embed_tokens.weight: holds .* in bfloat16"):
    conversion.convert(source, tmp_path / "out", "orbax", dtype="bfloat16")


def test_mix_names_the_model_and_the_tensor_that_hold_nan(tmp_path):
  whole = save(tmp_path / "a")
  broken = save(tmp_path / "b", seed=1, broken="layers/self_attention/query")
  for weights, layerwise in (([0.5, 0.5], None), ([1.0, 0.0], None), (None, (0.0, 1.0))):
    with pytest.raises(UserError, match=r"/b: model.layers.1.self_attn.q_proj.weight holds NaN"):
      mixing.mix_checkpoints([whole, broken], weights, tmp_path / "out", layerwise)
  for folder in (whole, broken):
    params, _ = huggingface.load(folder)
    store.save(tmp_path / f"{folder.name}-own", 1, params=params)
  own = [tmp_path / "a-own", tmp_path / "b-own"]
  with pytest.raises(UserError, match=r"b-own/1: params/layers/self_attention/query holds NaN"):
    mixing.mix_checkpoints(own, [0.5, 0.5], tmp_path / "out")
  with pytest.raises(UserError, match=r"the mixture is too large for float32; choose smaller"):
    large = save(tmp_path / "c", broken="embedding", value=-3e38)
    mixing.mix_checkpoints([whole, large], None, tmp_path / "out", (10.0, 0.0))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layerwise", [(np.nan, 1.0), (0.0, np.inf), (-1e39, 0.0)])
def test_alphas_that_are_no_numbers(tmp_path, layerwise):
  paths = [save(tmp_path / name) for name in "ab"]
  with pytest.raises(UserError, match="expected two finite alphas"):
    mixing.mix_checkpoints(paths, None, tmp_path / "out", layerwise)
  assert not (tmp_path / "out").exists()


LLAMA_VALUES = (
  ("num_hidden_layers", 10**12),
  ("num_hidden_layers", "2"),
  ("num_hidden_layers", 2.0),
  ("num_hidden_layers", True),
  ("num_hidden_layers", -1),
  ("hidden_size", "8"),
  ("hidden_size", 10**400),
  ("num_attention_heads", 0),
  ("num_attention_heads", [2]),
  ("head_dim", -4),
  ("vocab_size", None),
  ("rope_parameters", [1]),
  ("rope_parameters", {"rope_theta": "1e4"}),
  ("rope_parameters", {"rope_type": "llama3", "factor": float("nan")}),
  ("rope_parameters", {"rope_type": {"a": 1}}),
  ("rms_norm_eps", float("inf")),
  ("rms_norm_eps", float("nan")),
  ("tie_word_embeddings", "false"),
  ("layer_types", [{"a": 1}]),
  ("sliding_window", -5),
  ("hidden_act", ["silu"]),
  ("model_type", {"a": "llama"}),
  ("quantization_config", {"bits": 4}),
)


@pytest.mark.parametrize("key, value", LLAMA_VALUES)
def test_values_of_a_config_that_cannot_be(tmp_path, key, value):
  folder = save(tmp_path / "a")
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
  with pytest.raises(UserError, match=r"config.json: "):
    huggingface.load(folder)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 10**5, '{"a": ' + "9" * 5000 + "}", "\ud800"])
def test_json_that_is_broken(tmp_path, text):
  folder = save(tmp_path / "a")
  for name in ("config.json", "model.safetensors.index.json"):
    before = (folder / name).read_bytes() if name == "config.json" else b""
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    with pytest.raises(UserError, match=f"{name}: expected"):
      huggingface.load(folder)
    (folder / "x.safetensors").rename(folder / "model.safetensors")
    (folder / name).write_bytes(before)


def with_header(path, change):
  content = path.read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  header = json.loads(content[8 : 8 + length])
  changed = change(header)
  text = json.dumps(header if changed is None else changed).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


NAME = "model.norm.weight"
HEADERS = (
  lambda header: [1],
  lambda header: header[NAME].update(dtype=["F32"]),
  lambda header: header[NAME].update(dtype="C64"),
  lambda header: header[NAME].update(dtype="I64"),
  lambda header: header[NAME].update(shape=8),
  lambda header: header[NAME].update(shape=[8.0]),
  lambda header: header[NAME].update(shape=[-8]),
  lambda header: header[NAME].update(shape=[10**30]),
  lambda header: header[NAME].update(shape=["8"]),
  lambda header: header[NAME].update(shape=[1] * 1000 + [8]),
  lambda header: header[NAME].update(data_offsets=[0]),
  lambda header: header[NAME].update(data_offsets=["0", "32"]),
  lambda header: header[NAME].update(data_offsets=[0.0, 32.0]),
  lambda header: header[NAME].update(data_offsets=[10**12, 10**12 + 32]),
  lambda header: header[NAME].update(data_offsets=[0, 32]),  # those of another tensor
  lambda header: header[NAME].pop("shape"),
  lambda header: header.update({NAME: 3}),
  lambda header: header.pop(NAME),
)


@pytest.mark.parametrize("change", HEADERS)
def test_headers_that_cannot_be(tmp_path, change):
  folder = save(tmp_path / "a")
  with_header(folder / "model.safetensors", change)
  with pytest.raises(UserError, match=r"model.safetensors: |model.norm"):
    huggingface.load(folder)


def test_pipes_are_not_waited_for(tmp_path):
  for name in ("config.json", "model.safetensors"):
    folder = save(tmp_path / name.split(".")[0])
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"expected (a file, got a pipe|the folder|a model)|got"):
      huggingface.load(folder)


@pytest.mark.parametrize("kind", ["int", "complex", "list", "names", "sparse", "quantized"])
def test_pickled_weights_that_are_no_floating_point(tmp_path, kind):
  import torch

  folder = save(tmp_path / "a")
  tensors = {name: torch.tensor(t.read()) for name, t in huggingface_tensors(folder).items()}
  (folder / "model.safetensors").unlink()
  torch.save(tensors, folder / "pytorch_model.bin")
  assert huggingface.load(folder, allow_pickle=True)
  values = {
    "int": torch.ones(8, dtype=torch.int64),
    "complex": torch.ones(8, dtype=torch.complex64),
    "list": [1.0] * 8,
    "sparse": torch.ones(8).to_sparse(),
    "quantized": torch.quantize_per_tensor(torch.ones(8), 0.1, 0, torch.qint8),
  }
  if kind == "names":
    tensors = {1: tensors[NAME]}
  else:
    tensors[NAME] = values[kind]
  torch.save(tensors, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="expected (one of float32|tensors by name)|weights only"):
    huggingface.load(folder, allow_pickle=True)


def huggingface_tensors(folder):
  return huggingface.open_source(folder).tensors


def t5x_tree(tmp_path):
  """Returns a T5X file's tree with the arrays of a T5."""
  params = jax.tree.map(np.asarray, t5.init(T5, jax.random.key(0)))
  tree = {}
  for tensor in huggingface_names(T5):
    name, transposed = t5x._name(tensor, t5x.Form(is_gated=True, is_scanned=False))
    value = params
    for key in tensor.leaf.split("/"):
      value = value[key]
    value = value if tensor.layer is None else value[tensor.layer]
    *parents, last = name.split("/")
    inner = tree
    for key in parents:
      inner = inner.setdefault(key, {})
    inner[last] = np.ascontiguousarray(value.T if transposed else value)
  return tree


def huggingface_names(config):
  from factshock.models.formats.huggingface import names

  return names.tensors(config)


T5X_CHANGES = (
  lambda tree: tree["token_embedder"].update(embedding=np.ones(3, np.float32)),
  lambda tree: tree["token_embedder"].update(embedding=np.ones((13, 8), np.int32)),
  lambda tree: tree["token_embedder"].update(embedding=np.ones((13, 8), np.complex64)),
  lambda tree: tree["token_embedder"].update(embedding="text"),
  lambda tree: tree["token_embedder"].update(embedding={"driver": 3}),
  lambda tree: tree["token_embedder"].update(embedding={"driver": "zarr", "kvstore": [1]}),
  lambda tree: tree["encoder"]["relpos_bias"].update(rel_embedding=np.ones((0, 32), np.float32)),
  lambda tree: tree["encoder"]["relpos_bias"].update(rel_embedding=np.ones((), np.float32)),
  lambda tree: tree["encoder"]["layers_0"]["mlp"]["wi_0"].update(kernel=np.ones(2, np.float32)),
  lambda tree: tree["encoder"]["layers_0"]["attention"]["query"].update(kernel=np.float32(1)),
  lambda tree: tree.update({"1": np.ones(2)}),
)


@pytest.mark.parametrize("change", T5X_CHANGES)
def test_t5x_files_that_cannot_be(tmp_path, change):
  tree = t5x_tree(tmp_path)
  path = tmp_path / "checkpoint"
  path.write_bytes(serialization.msgpack_serialize({"target": tree}))
  t5x.load(path)
  change(tree)
  path.write_bytes(serialization.msgpack_serialize({"target": tree}))
  with pytest.raises(UserError, match=str(tmp_path)):
    t5x.load(path)
