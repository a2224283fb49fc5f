"""Conversion between HuggingFace, T5X and our checkpoints: bit for bit, and the verb at the
door.
"""

import dataclasses
import json
import subprocess
import sys
import time

import hf_t5
import jax
import numpy as np
import pytest
from flax import serialization

from factshock.checkpoints import conversion, store
from factshock.models import decoder, t5
from factshock.models.formats import huggingface, t5x
from factshock.runtime.errors import UserError

V1_1 = t5.T5Config(
  vocab_size=67,
  d_model=24,
  d_ff=40,
  num_heads=3,
  d_kv=16,
  encoder_layers=3,
  decoder_layers=2,
  relative_buckets=8,
)
V1_0 = dataclasses.replace(V1_1, feed_forward="relu", tie_head=True, decoder_layers=3)
MISTRAL = decoder.LlamaConfig(
  vocab_size=71,
  d_model=24,
  d_ff=40,
  num_heads=4,
  num_kv_heads=2,
  d_kv=8,
  layers=2,
  max_length=64,
  sliding_window=5,
)


def random_params(config, seed=0):
  """Params of random numbers everywhere, norm scales included."""
  family = decoder if isinstance(config, decoder.LlamaConfig) else t5
  shapes = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert [leaf.dtype for leaf in jax.tree.leaves(one)] == [
    leaf.dtype for leaf in jax.tree.leaves(other)
  ]


@pytest.mark.parametrize("config", [V1_1, MISTRAL], ids=["t5", "mistral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_bit_identical(tmp_path, config, dtype):
  config = dataclasses.replace(config, param_dtype=dtype, dtype=dtype)
  params = random_params(config)
  base = huggingface.to_json(config, dtype) | {"eos_token_id": 9, "task_specific_params": {"a": 1}}
  huggingface.save(tmp_path / "hf", params, config, base_config=base)
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (tmp_path / "hf" / name).write_text('{"a": 1}')
  conversion.convert(tmp_path / "hf", tmp_path / "ours", "orbax")
  equal(store.restore_params(tmp_path / "ours"), params)
  conversion.convert(tmp_path / "ours", tmp_path / "back", "huggingface")
  for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
    assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), name


def test_a_checkpoint_of_an_experiment_is_written_for_transformers(tmp_path):
  import torch
  import transformers

  params = jax.tree.map(lambda leaf: 0.2 * leaf, random_params(V1_1))
  section = {"family": "t5", **dataclasses.asdict(V1_1), "vocab_size": 0}
  record = {
    "arm": "mixed",
    "seed": 3,
    "workdir": str(tmp_path),
    "experiment": {"model": section, "start_from": ""},
  }
  store.save(tmp_path / "run", 7, params=params, config=record)
  conversion.convert(tmp_path / "run", tmp_path / "hf", "huggingface")
  model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf")
  batch = hf_t5.random_batch(V1_1)
  ours = hf_t5.quick_jit(t5.forward, static_argnums=1)(
    params, V1_1, batch["inputs"], batch["targets"]
  )
  with torch.no_grad():
    theirs = model(
      input_ids=torch.tensor(batch["inputs"], dtype=torch.long),
      attention_mask=torch.tensor(batch["inputs"] != 0),
      decoder_input_ids=torch.tensor(
        np.asarray(t5.shift_right(batch["targets"])), dtype=torch.long
      ),
    ).logits.numpy()
  real = batch["targets"] != 0
  assert np.abs(np.asarray(ours) - theirs)[real].max() < 1e-5 * np.abs(theirs).max()


def test_dtype_changes_the_parameters_and_the_config(tmp_path):
  params = random_params(MISTRAL)
  huggingface.save(tmp_path / "hf", params, MISTRAL)
  conversion.convert(tmp_path / "hf", tmp_path / "half", "huggingface", dtype="bfloat16")
  half, config = huggingface.load(tmp_path / "half")
  assert (config.dtype, config.param_dtype) == ("bfloat16", "bfloat16")
  equal(jax.tree.map(np.asarray, half), jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params))
  conversion.convert(tmp_path / "hf", tmp_path / "ours", "orbax", dtype="bfloat16")
  conversion.convert(tmp_path / "ours", tmp_path / "wide", "huggingface", dtype="float32")
  wide, _ = huggingface.load(tmp_path / "wide")
  equal(
    jax.tree.map(np.asarray, wide),
    jax.tree.map(lambda leaf: leaf.astype("bfloat16").astype("float32"), params),
  )


# T5X's own names, written down here apart from the reader's table: (theirs, ours, transposed).
_SIDES = {
  "encoder": [("attention", "self_attention", "pre_attention_layer_norm")],
  "decoder": [
    ("self_attention", "self_attention", "pre_self_attention_layer_norm"),
    ("encoder_decoder_attention", "cross_attention", "pre_cross_attention_layer_norm"),
  ],
}


def scanned(arrays, config):
  """The arrays as T5X's scan stacks them: one of all layers, which are its second axis."""
  stacked = {}
  for name in arrays:
    side, _, rest = name.partition(".layers_0.")
    if rest:
      depth = getattr(config, f"{side}_layers")
      layers = [arrays[f"{side}.layers_{i}.{rest}"] for i in range(depth)]
      stacked[f"{side}.{side}.{rest}"] = np.stack(layers, axis=1)
    elif ".layers_" not in name:
      stacked[name] = arrays[name]
  return stacked


def t5x_arrays(params, config):
  arrays = {"token_embedder.embedding": params["embedding"]}
  if "head" in params:
    arrays["decoder.logits_dense.kernel"] = params["head"].T
  for side, blocks in _SIDES.items():
    tree = params[side]
    if not config.bias_in_every_layer:
      arrays[f"{side}.relpos_bias.rel_embedding"] = tree["relative_bias"].T
    arrays[f"{side}.{side}_norm.scale"] = tree["final_norm"]["scale"]
    for i in range(getattr(config, f"{side}_layers")):
      layer, prefix = jax.tree.map(lambda leaf: leaf[i], tree["layers"]), f"{side}.layers_{i}"
      for theirs, ours, norm in blocks:
        for name in ("query", "key", "value", "out"):
          arrays[f"{prefix}.{theirs}.{name}.kernel"] = layer[ours][name]
        arrays[f"{prefix}.{norm}.scale"] = layer[f"{ours}_norm"]["scale"]
      if config.bias_in_every_layer:
        arrays[f"{prefix}.relpos_bias.rel_embedding"] = layer["relative_bias"].T
      arrays[f"{prefix}.pre_mlp_layer_norm.scale"] = layer["feed_forward_norm"]["scale"]
      feed = layer["feed_forward"]
      gated = {"mlp.wi_0.kernel": feed.get("gate"), "mlp.wi_1.kernel": feed["up"]}
      for name, value in (
        (gated if "gate" in feed else {"mlp.wi.kernel": feed["up"]})
        | {"mlp.wo.kernel": feed["down"]}
      ).items():
        arrays[f"{prefix}.{name}"] = value
  return arrays


def write_t5x(folder, arrays, how):
  """Writes arrays as T5X did: "msgpack" with all inside, "specs" beside the file, or "zarr" without
  a file.
  """
  import tensorstore

  folder.mkdir()
  tree = {}
  for name, value in arrays.items():
    inner = tree
    *parents, last = name.split(".")
    for key in parents:
      inner = inner.setdefault(key, {})
    inner[last] = np.asarray(value)
    if how == "msgpack" or (how == "specs" and value.ndim == 1):
      continue
    spec = {
      "driver": "zarr",
      "kvstore": {"driver": "file", "path": str(folder / f"target.{name}")},
      "metadata": {
        "shape": list(value.shape),
        "chunks": [max(1, size // 2) for size in value.shape],
        "dtype": "bfloat16" if value.dtype.name == "bfloat16" else value.dtype.str,
        "compressor": {"id": "gzip", "level": 1},
      },
    }
    tensorstore.open(spec, create=True, open=True).result().write(np.asarray(value)).result()
    spec["kvstore"] = {
      "driver": "gcs",
      "bucket": "t5-data",
      "path": f"x/checkpoint_1/target.{name}/",
    }
    inner[last] = spec
  content = {"version": 3, "optimizer": {"target": tree, "state": {"step": np.int32(5)}}}
  if how != "zarr":
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))


UMT5 = dataclasses.replace(V1_1, bias_in_every_layer=True)


@pytest.mark.parametrize("how", ["msgpack", "specs", "zarr"])
@pytest.mark.parametrize("config", [V1_1, V1_0, UMT5], ids=["v1.1", "v1.0", "umt5"])
def test_t5x_is_read(tmp_path, config, how):
  params = random_params(config)
  arrays = t5x_arrays(params, config)
  if config is UMT5:  # as its checkpoints are
    arrays = scanned(arrays, config)
    assert arrays["encoder.encoder.relpos_bias.rel_embedding"].shape == (3, 3, 8)
  write_t5x(tmp_path / "t5x", arrays, how)
  found, read = t5x.load(tmp_path / "t5x")
  assert read == config
  equal(found, params)


def test_layers_of_t5x_are_read_one_by_one_or_scanned(tmp_path):
  for config, name in ((UMT5, "apart"), (V1_1, "scanned")):
    params = random_params(config)
    arrays = t5x_arrays(params, config)
    heads_apart = {}
    for key, value in (arrays if name == "apart" else scanned(arrays, config)).items():
      if key.endswith((".query.kernel", ".key.kernel", ".value.kernel")):
        value = value.reshape(*value.shape[:-1], 3, 16)
      elif key.endswith(".out.kernel"):
        split = value.reshape(3, 16, *value.shape[1:])
        value = split if value.ndim == 2 else split.transpose(0, 2, 1, 3)
      heads_apart[key] = value
    write_t5x(tmp_path / name, heads_apart, "msgpack")
    found, read = t5x.load(tmp_path / name)
    assert read == config
    equal(found, params)


def test_misfits_of_scanned_t5x_are_named(tmp_path):
  arrays = scanned(t5x_arrays(random_params(UMT5), UMT5), UMT5)
  del arrays["decoder.decoder.relpos_bias.rel_embedding"]
  arrays["encoder.encoder.mlp.wo.kernel"] = np.ones((40, 2, 24), np.float32)
  write_t5x(tmp_path / "t5x", arrays, "msgpack")
  with pytest.raises(UserError) as error:
    t5x.load(tmp_path / "t5x")
  for words in (
    "missing decoder/decoder/relpos_bias/rel_embedding [3, 2, 8]",
    "mis-shaped encoder/encoder/mlp/wo/kernel expected [40, 3, 24] got [40, 2, 24]",
  ):
    assert words in str(error.value)


def test_t5x_in_bfloat16_with_heads_apart_converts(tmp_path):
  config = dataclasses.replace(V1_1, param_dtype="bfloat16")
  params = random_params(config)
  arrays = t5x_arrays(params, config)
  arrays = {
    name: value.reshape(24, 3, 16)
    if name.endswith((".query.kernel", ".key.kernel"))
    else value.reshape(3, 16, 24)
    if name.endswith(".out.kernel")
    else value
    for name, value in arrays.items()
  }
  write_t5x(tmp_path / "t5x", arrays, "specs")
  conversion.convert(tmp_path / "t5x", tmp_path / "hf", "huggingface")
  loaded, found = huggingface.load(tmp_path / "hf")
  equal(jax.tree.map(np.asarray, loaded), params)
  silu = dataclasses.replace(V1_1, feed_forward="gated-silu", relative_max_distance=99)
  huggingface.save(tmp_path / "silu", random_params(silu), silu)
  opened = conversion.convert(
    tmp_path / "t5x" / "checkpoint", tmp_path / "like", "huggingface", config_from=tmp_path / "silu"
  )
  assert (opened.config.feed_forward, opened.config.relative_max_distance) == ("gated-silu", 99)


def test_every_misfit_of_t5x_is_named(tmp_path):
  arrays = t5x_arrays(random_params(V1_1), V1_1)
  del arrays["encoder.layers_1.attention.query.kernel"]
  arrays["decoder.decoder_norm.scale"] = np.ones(5, np.float32)
  arrays["decoder.adapter.kernel"] = np.ones((2, 2), np.float32)
  write_t5x(tmp_path / "t5x", arrays, "msgpack")
  with pytest.raises(UserError) as error:
    t5x.load(tmp_path / "t5x")
  for words in (
    "missing encoder/layers_1/attention/query/kernel [24, 48]",
    "unexpected decoder/adapter/kernel [2, 2]",
    "mis-shaped decoder/decoder_norm/scale expected [24] got [5]",
  ):
    assert words in str(error.value)


def test_damaged_t5x_is_refused(tmp_path):
  write_t5x(tmp_path / "t5x", t5x_arrays(random_params(V1_1), V1_1), "specs")
  array = tmp_path / "t5x" / "target.decoder.logits_dense.kernel"
  chunk = array / "0.0"
  chunk.write_bytes(b"abc")
  with pytest.raises(UserError, match="logits_dense.kernel: damaged"):
    t5x.load(tmp_path / "t5x")
  chunk.unlink()
  with pytest.raises(UserError, match="logits_dense.kernel: expected 6 chunks, got 5"):
    t5x.load(tmp_path / "t5x")
  (array / ".zarray").unlink()
  with pytest.raises(UserError, match="expected a zarr array"):
    t5x.load(tmp_path / "t5x")
  (tmp_path / "t5x" / "checkpoint").write_bytes(b"abc")
  with pytest.raises(UserError, match="msgpack"):
    t5x.load(tmp_path / "t5x")


def test_what_cannot_be_converted(tmp_path):
  store.save(tmp_path / "plain", 1, params={"w": np.ones(3, np.float32)})
  with pytest.raises(UserError, match="does not say which model"):
    conversion.convert(tmp_path / "plain", tmp_path / "x", "huggingface")
  record = {"experiment": {"model": {"family": "t5", **dataclasses.asdict(V1_1)}}}
  store.save(tmp_path / "other", 1, params=random_params(V1_0), config=record)
  with pytest.raises(UserError, match="missing encoder/layers/feed_forward/gate"):
    conversion.convert(tmp_path / "other", tmp_path / "x", "huggingface")
  with pytest.raises(UserError, match="plain: already exists"):
    conversion.convert(tmp_path / "other", tmp_path / "plain", "huggingface")
  assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "plain"]


def verb(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "factshock.convert", *arguments],
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_the_verb_converts_and_says_where(tmp_path):
  huggingface.save(tmp_path / "hf", random_params(V1_1), V1_1)
  done = verb(
    f"--model={tmp_path}/hf", f"--output={tmp_path}/ours", "--to=orbax", "--dtype=bfloat16"
  )
  assert done.returncode == 0, done.stderr
  assert f"{tmp_path}/ours" in done.stdout and "without a tokenizer" in done.stdout
  manifest = json.loads((tmp_path / "ours" / "manifest.json").read_text())
  assert manifest["leaves"]["params/embedding"]["dtype"] == "bfloat16"
  assert manifest["config"]["experiment"]["model"]["family"] == "t5"


def test_help_has_examples_and_is_quick():
  verb("--help")
  began = time.monotonic()
  done = verb("--help")
  assert time.monotonic() - began < 2
  assert "factshock convert --model=" in done.stdout and "allow_pickle" in done.stdout


@pytest.mark.parametrize(
  "arguments,message",
  [
    ([], "--model: expected a value"),
    (["--model={}"], "--output: expected a value"),
    (["--model={}", "--output={}/x"], "--to: expected a value"),
    (
      ["--model={}/none", "--output={}/x", "--to=orbax"],
      "expected a checkpoint folder, got nothing",
    ),
    (["--model={}", "--output={}/x", "--to=orbax"], "expected a checkpoint, got none"),
  ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
  done = verb(*(argument.replace("{}", str(tmp_path)) for argument in arguments))
  assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_a_checkpoint_appears_with_its_tokenizer_or_not_at_all(tmp_path, monkeypatch):
  def fail(source, target):
    raise OSError(28, "No space left on device")

  huggingface.save(tmp_path / "hf", random_params(MISTRAL), MISTRAL)
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (tmp_path / "hf" / name).write_text('{"a": 1}')
  monkeypatch.setattr(conversion, "_copy_tokenizer", fail)
  with pytest.raises(UserError, match="could not be saved: No space left"):
    conversion.convert(tmp_path / "hf", tmp_path / "ours", "orbax")
  assert [path.name for path in tmp_path.iterdir()] == ["hf"]
