"""The HuggingFace format: same logits as transformers, bit-identical round trips, and what is
refused.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import hf_t5
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.checkpoints import belongings
from factshock.models import decoder, t5
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import files, names
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
  relative_max_distance=20,
)
V1_0 = dataclasses.replace(V1_1, feed_forward="relu", tie_head=True, encoder_layers=2)
SILU = dataclasses.replace(V1_1, feed_forward="gated-silu", encoder_layers=1, decoder_layers=3)
LLAMA = decoder.LlamaConfig(
  vocab_size=71, d_model=24, d_ff=40, num_heads=4, num_kv_heads=4, d_kv=6, layers=2, max_length=64
)
LLAMA3 = dataclasses.replace(
  LLAMA, num_kv_heads=2, tie_head=True, rope_theta=5e5, rope_scaling=(8.0, 1.0, 4.0, 32)
)
MISTRAL = dataclasses.replace(LLAMA, num_kv_heads=2, d_kv=8, sliding_window=5, epsilon=1e-6)
ALL = {
  "t5-v1.0": V1_0,
  "t5-v1.1": V1_1,
  "t5-silu": SILU,
  "umt5": dataclasses.replace(V1_1, bias_in_every_layer=True),
  "llama": LLAMA,
  "llama3": LLAMA3,
  "mistral": MISTRAL,
}


def peer(config):
  """A PyTorch model of the same sizes with random weights, norm scales included."""
  if isinstance(config, t5.T5Config):
    return hf_t5.peer(config)
  import torch
  import transformers

  torch.manual_seed(0)
  mistral = config.sliding_window is not None
  rope = {"rope_type": "default", "rope_theta": config.rope_theta}
  if config.rope_scaling:
    factor, low, high, original = config.rope_scaling
    rope |= {
      "rope_type": "llama3",
      "factor": factor,
      "low_freq_factor": low,
      "high_freq_factor": high,
      "original_max_position_embeddings": original,
    }
  kind = transformers.MistralConfig if mistral else transformers.LlamaConfig
  made = kind(
    vocab_size=config.vocab_size,
    hidden_size=config.d_model,
    intermediate_size=config.d_ff,
    num_hidden_layers=config.layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.d_kv,
    rms_norm_eps=config.epsilon,
    max_position_embeddings=config.max_length,
    tie_word_embeddings=config.tie_head,
    rope_parameters=rope,
    **({"sliding_window": config.sliding_window} if mistral else {}),
  )
  model = (transformers.MistralForCausalLM if mistral else transformers.LlamaForCausalLM)(made)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(0.3 * torch.randn_like(parameter) + ("norm" in name))
  return model.eval()


def saved(tmp_path, config, dtype="float32", **options):
  import torch

  model = peer(config).to(getattr(torch, dtype))
  model.save_pretrained(tmp_path / "theirs", **options)
  return tmp_path / "theirs", model


def raw(folder):
  """Every stored tensor as bytes, by safetensors' own reader."""
  import safetensors

  found = {}
  for path in sorted(folder.glob("*.safetensors")):
    with safetensors.safe_open(path, "pt") as file:
      assert file.metadata() == {"format": "pt"}
      for name in file.keys():
        tensor = file.get_tensor(name)
        found[name] = (
          str(tensor.dtype),
          tuple(tensor.shape),
          tensor.contiguous().view(-1).numpy().tobytes()
          if tensor.element_size() == 4
          else tensor.contiguous().view(-1).view(dtype=_int16()).numpy().tobytes(),
        )
  return found


def _int16():
  import torch

  return torch.int16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_round_trip_is_bit_identical_and_transformers_loads_it(tmp_path, name, dtype):
  import transformers

  config = ALL[name]
  folder, model = saved(tmp_path, config, dtype)
  params, found = huggingface.load(folder)
  assert found == dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
  for target, base in (
    ("made", None),
    ("carried", json.loads((folder / "config.json").read_text())),
  ):
    huggingface.save(tmp_path / target, params, found, base_config=base)
    assert raw(tmp_path / target) == raw(folder)
    assert huggingface.config_of(tmp_path / target) == dataclasses.replace(
      found, param_dtype="float32"
    )
    again, info = type(model).from_pretrained(tmp_path / target, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert str(again.dtype) == f"torch.{dtype}"
    theirs = {
      key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path",)
    }
    ours = again.config.to_dict()
    known = (
      "architectures",
      "vocab_size",
      "rope_parameters",
      "sliding_window",
      "rms_norm_eps",
      "head_dim",
      "scale_decoder_outputs",
      "dense_act_fn",
      "num_decoder_layers",
      "layer_norm_epsilon",
      "relative_attention_max_distance",
      "decoder_start_token_id",
      "num_key_value_heads",
    )
    assert {key: ours.get(key) for key in known} == {key: theirs.get(key) for key in known}
  auto = transformers.AutoConfig.from_pretrained(tmp_path / "made")
  assert auto.model_type == model.config.model_type


@pytest.mark.parametrize("name", ALL)
def test_loaded_weights_give_the_logits_of_transformers(tmp_path, name):
  import torch

  config = ALL[name]
  folder, model = saved(tmp_path, config)
  params, found = huggingface.load(folder)
  tokens = np.random.default_rng(0).integers(2, config.vocab_size, (2, 9)).astype(np.int32)
  given = {"input_ids": torch.tensor(tokens, dtype=torch.long)}
  if isinstance(config, t5.T5Config):
    ours = hf_t5.quick_jit(t5.forward, static_argnums=1)(params, found, tokens, tokens)
    given["decoder_input_ids"] = torch.tensor(np.asarray(t5.shift_right(tokens)), dtype=torch.long)
  else:
    ours = hf_t5.quick_jit(decoder.forward, static_argnums=1)(params, found, tokens)
  with torch.no_grad():
    theirs = model(**given).logits.numpy()
  assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["t5-v1.1", "mistral"])
def test_shards_are_read_and_written(tmp_path, name):
  config = ALL[name]
  folder, model = saved(tmp_path, config, max_shard_size="10KB")
  assert len(list(folder.glob("*.safetensors"))) > 2
  params, found = huggingface.load(folder)
  huggingface.save(tmp_path / "ours", params, found, shard_bytes=10_000)
  assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
  assert raw(tmp_path / "ours") == raw(folder)
  _, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
  assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_every_leaf_is_one_that_init_makes():
  for config in ALL.values():
    family = t5 if isinstance(config, t5.T5Config) else decoder
    made = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
    expected = {
      jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
      for path, leaf in jax.tree_util.tree_flatten_with_path(made)[0]
    }
    assert {
      leaf: names.leaf_shape(parts) for leaf, parts in names.by_leaf(config).items()
    } == expected


def test_dtypes_are_those_asked_for(tmp_path):
  folder, _ = saved(tmp_path, V1_1)
  exact, _ = huggingface.load(folder)
  params, config = huggingface.load(folder, param_dtype="bfloat16", dtype="bfloat16")
  assert (config.param_dtype, config.dtype) == ("bfloat16", "bfloat16")
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), params, exact)


def test_float16_weights_keep_their_values(tmp_path):
  folder, _ = saved(tmp_path, LLAMA, "float16")
  params, config = huggingface.load(folder)
  assert (config.param_dtype, config.dtype) == ("float32", "bfloat16")
  embedding = np.asarray(params["embedding"])
  np.testing.assert_array_equal(embedding, embedding.astype(np.float16))
  narrow, _ = huggingface.load(folder, param_dtype="bfloat16")
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), narrow, params
  )


def test_leaves_go_to_their_sharding(tmp_path):
  folder, _ = saved(tmp_path, V1_1)
  mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
  where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "model"))
  seen = {}

  def sharding(leaf, shape):
    seen[leaf] = shape
    return where if leaf.endswith("self_attention/query") else None

  params, _ = huggingface.load(folder, sharding=sharding)
  query = params["encoder"]["layers"]["self_attention"]["query"]
  assert query.sharding == where and seen["encoder/layers/self_attention/query"] == query.shape == (
    3,
    24,
    48,
  )
  plain, _ = huggingface.load(folder)
  jax.tree.map(np.testing.assert_array_equal, params, plain)
  huggingface.save(tmp_path / "ours", params, V1_1)
  assert raw(tmp_path / "ours") == raw(folder)


@settings(deadline=None, max_examples=40)
@given(
  st.integers(1, 150),
  st.integers(1, 70),
  st.sampled_from(["float32", "bfloat16", "float16"]),
  st.sampled_from(["float32", "bfloat16"]),
  st.booleans(),
)
def test_tensors_of_any_size_are_read_as_numpy_would(rows, columns, stored, wanted, transposed):
  import tempfile

  array = np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.dtype(stored))
  with tempfile.TemporaryDirectory() as folder:
    files.write_safetensors(
      folder, [files.Writable("x", array.shape, array.dtype, lambda: array)], 1e9
    )
    out = np.full((2, *(array.shape[::-1] if transposed else array.shape)), 7, np.dtype(wanted))
    files.safetensors_in(folder)["x"].read_into(out[1], transposed)
  expected = (array.T if transposed else array).astype(np.dtype(wanted))
  np.testing.assert_array_equal(out[1], expected)
  assert (out[0] == 7).all()


def edit_config(folder, **changes):
  path = folder / "config.json"
  found = json.loads(path.read_text())
  path.write_text(
    json.dumps({key: value for key, value in (found | changes).items() if value != "DROP"})
  )


@pytest.mark.parametrize(
  "written,expected",
  [
    (dict(rope_scaling=None, rope_theta=1e6, rope_parameters="DROP"), (1e6, None)),
    (
      dict(
        rope_scaling=dict(
          rope_type="llama3",
          factor=8.0,
          low_freq_factor=1.0,
          high_freq_factor=4.0,
          original_max_position_embeddings=8192,
        ),
        rope_theta=5e5,
        rope_parameters="DROP",
      ),
      (5e5, (8.0, 1.0, 4.0, 8192)),
    ),
    (dict(rope_parameters=dict(rope_type="default", rope_theta=2e4)), (2e4, None)),
    (dict(rope_parameters="DROP"), (1e4, None)),
  ],
)
def test_rope_is_read_in_its_old_and_new_form(tmp_path, written, expected):
  folder, _ = saved(tmp_path, LLAMA)
  edit_config(folder, **written)
  config = huggingface.config_of(folder)
  assert (config.rope_theta, config.rope_scaling) == expected


def test_configs_of_published_models():
  read = lambda **found: huggingface.from_json(found, "x")
  flan = read(
    model_type="t5",
    vocab_size=32128,
    d_model=1024,
    d_ff=2816,
    d_kv=64,
    num_heads=16,
    num_layers=24,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    dropout_rate=0.1,
  )
  assert (flan.tie_head, flan.decoder_layers, flan.dtype, flan.dropout) == (
    False,
    24,
    "float32",
    0.1,
  )
  old = read(
    model_type="t5", vocab_size=32128, d_model=512, d_ff=2048, d_kv=64, num_heads=8, num_layers=6
  )
  assert (old.tie_head, old.feed_forward) == (True, "relu")
  sizes = dict(vocab_size=32000, hidden_size=4096, num_attention_heads=32, num_hidden_layers=32)
  llama2 = read(
    model_type="llama",
    intermediate_size=11008,
    torch_dtype="float16",
    rms_norm_eps=1e-5,
    rope_scaling=None,
    max_position_embeddings=4096,
    **sizes,
  )
  assert (llama2.num_kv_heads, llama2.d_kv, llama2.dtype, llama2.max_length) == (
    32,
    128,
    "bfloat16",
    4096,
  )
  mistral = read(
    model_type="mistral",
    intermediate_size=14336,
    num_key_value_heads=8,
    sliding_window=4096,
    torch_dtype="bfloat16",
    **sizes,
  )
  assert (mistral.num_kv_heads, mistral.sliding_window) == (8, 4096)
  assert (
    read(model_type="mistral", intermediate_size=14336, sliding_window=None, **sizes).sliding_window
    is None
  )


def test_configs_of_t5s_relatives():
  sizes = dict(vocab_size=384, d_model=1472, d_ff=3584, d_kv=64, num_heads=6, num_layers=12)
  read = lambda **found: huggingface.from_json(dict(sizes, **found), "x")
  byt5 = read(
    model_type="t5",
    num_decoder_layers=4,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    tokenizer_class="ByT5Tokenizer",
  )
  assert (byt5.encoder_layers, byt5.decoder_layers, byt5.tie_head) == (12, 4, False)
  umt5 = read(model_type="umt5", tie_word_embeddings=False, scalable_attention=True)
  assert (umt5.bias_in_every_layer, umt5.feed_forward, umt5.tie_head) == (True, "gated-gelu", False)
  # transformers 5 writes tie_word_embeddings true of every mT5, and scales no outputs
  for found in (dict(tie_word_embeddings=False), dict(tie_word_embeddings=True), {}):
    mt5 = read(model_type="mt5", **found)
    assert (mt5.bias_in_every_layer, mt5.feed_forward, mt5.tie_head) == (False, "gated-gelu", False)
  with pytest.raises(UserError, match='scaled the outputs .* write model_type "t5"'):
    read(model_type="mt5", tie_word_embeddings=True, transformers_version="4.40.1")


@pytest.mark.parametrize("is_tied", [False, True])
def test_an_mt5_keeps_its_name_and_its_logits(tmp_path, is_tied):
  import torch
  import transformers

  model = hf_t5.peer(V1_1, kind="MT5")
  if is_tied:
    model.lm_head.weight = model.shared.weight
  model.save_pretrained(tmp_path / "theirs")
  assert ("lm_head.weight" in raw(tmp_path / "theirs")) != is_tied
  params, config = huggingface.load(tmp_path / "theirs")
  assert config == V1_1
  base = json.loads((tmp_path / "theirs" / "config.json").read_text())
  huggingface.save(tmp_path / "ours", params, config, base_config=base)
  written = json.loads((tmp_path / "ours" / "config.json").read_text())
  assert written["architectures"] == ["MT5ForConditionalGeneration"]
  tensors = raw(tmp_path / "ours")
  assert {name: tensors[name] for name in raw(tmp_path / "theirs")} == raw(tmp_path / "theirs")
  again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
  assert type(again).__name__ == "MT5ForConditionalGeneration"
  tokens = np.random.default_rng(0).integers(2, config.vocab_size, (2, 9)).astype(np.int32)
  given = torch.tensor(tokens, dtype=torch.long)
  with torch.no_grad():
    logits = [
      each(input_ids=given, decoder_input_ids=given).logits.numpy() for each in (model, again)
    ]
  np.testing.assert_array_equal(*logits)
  ours = hf_t5.quick_jit(t5.decode, static_argnums=1)(
    params,
    config,
    hf_t5.quick_jit(t5.encode, static_argnums=1)(params, config, tokens),
    tokens,
    tokens,
  )
  assert np.abs(np.asarray(ours) - logits[0]).max() < 1e-5 * np.abs(logits[0]).max()


def test_known_extras_are_accepted_and_copies_that_differ_are_not(tmp_path):
  import safetensors.torch

  folder, model = saved(tmp_path, V1_0)
  path = folder / "model.safetensors"
  state = safetensors.torch.load_file(path)
  extra = dict(state)
  for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
    extra[name] = state["shared.weight"].clone()
  name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  extra[name] = state[
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  ].clone()
  safetensors.torch.save_file(extra, path, {"format": "pt"})
  params, config = huggingface.load(folder)
  huggingface.save(tmp_path / "ours", params, config)
  assert raw(tmp_path / "ours").keys() == state.keys()
  extra["lm_head.weight"][0, 0] += 1
  safetensors.torch.save_file(extra, path, {"format": "pt"})
  with pytest.raises(UserError, match="lm_head.weight differs from shared.weight"):
    huggingface.load(folder)


def test_rotary_frequencies_of_old_llama_files_are_accepted(tmp_path):
  import safetensors.torch
  import torch

  folder, _ = saved(tmp_path, LLAMA)
  state = safetensors.torch.load_file(folder / "model.safetensors")
  for layer in range(2):
    state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
  safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
  huggingface.load(folder)


def test_a_head_that_transformers_5_tied_is_read_from_the_embedding(tmp_path):
  import transformers

  folder, _ = saved(tmp_path, V1_1)
  found = transformers.AutoConfig.from_pretrained(folder)
  transformers.T5ForConditionalGeneration(found).save_pretrained(tmp_path / "tied")
  assert "lm_head.weight" not in raw(tmp_path / "tied")
  params, config = huggingface.load(tmp_path / "tied")
  assert not config.tie_head
  np.testing.assert_array_equal(params["head"], params["embedding"])


def test_every_misfit_is_named_in_one_error(tmp_path):
  import safetensors.torch
  import torch

  folder, _ = saved(tmp_path, V1_1)
  state = safetensors.torch.load_file(folder / "model.safetensors")
  del state["encoder.block.1.layer.0.SelfAttention.q.weight"], state["lm_head.weight"]
  state["adapter.weight"] = torch.ones(2, 3)
  state["decoder.final_layer_norm.weight"] = torch.ones(5)
  safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
  edit_config(folder, tie_word_embeddings=False, scale_decoder_outputs="DROP")
  with pytest.raises(UserError) as error:
    huggingface.load(folder)
  for words in (
    "missing encoder.block.1.layer.0.SelfAttention.q.weight [48, 24]",
    "missing lm_head.weight [67, 24]",
    "unexpected adapter.weight [2, 3]",
    "mis-shaped decoder.final_layer_norm.weight expected [24] got [5]",
  ):
    assert words in str(error.value)


@pytest.mark.parametrize(
  "changes,words",
  [
    (
      {"model_type": "gpt2"},
      "'gpt2' is not supported; supported are gemma2, gemma3 .*, llama, mistral, .*t5",
    ),
    ({"attention_bias": True}, "biases"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"hidden_act": "gelu"}, "silu"),
    ({"hidden_size": "DROP"}, "'hidden_size'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn' is not supported"),
    ({"quantization_config": {"bits": 4}}, "quantized"),
    ({"vocab_size": "many"}, "config.json: vocab_size"),
  ],
)
def test_configs_that_are_not_supported(tmp_path, changes, words):
  folder, _ = saved(tmp_path, LLAMA)
  edit_config(folder, **changes)
  with pytest.raises(UserError, match=words):
    huggingface.load(folder)


def test_feed_forwards_that_are_not_supported():
  with pytest.raises(UserError, match="gated-gelu, gated-silu, relu"):
    huggingface.from_json({"model_type": "t5", "feed_forward_proj": "gated-tanh"}, "x")


def test_damaged_and_missing_files(tmp_path):
  folder, _ = saved(tmp_path, V1_1, max_shard_size="10KB")
  shards = sorted(folder.glob("*.safetensors"))
  whole = shards[1].read_bytes()
  for cut, words in (
    (len(whole) - 8, "cut short"),
    (40, "safetensors file"),
    (3, "safetensors file"),
  ):
    shards[1].write_bytes(whole[:cut])
    with pytest.raises(UserError, match=words):
      huggingface.load(folder)
  shards[1].unlink()
  with pytest.raises(UserError, match="names the shard model-00002"):
    huggingface.load(folder)
  (folder / files.INDEX).write_text('{"weight_map": {"a": "../../b"}}')
  with pytest.raises(UserError, match="broken file"):
    huggingface.load(folder)
  (folder / files.INDEX).unlink()
  with pytest.raises(UserError, match="expected model.safetensors"):
    huggingface.load(folder)
  (folder / "config.json").write_text("{")
  with pytest.raises(UserError, match="expected JSON"):
    huggingface.load(folder)
  (folder / "config.json").unlink()
  with pytest.raises(UserError, match="config.json, got none"):
    huggingface.load(folder)


@pytest.mark.parametrize("path", ["no/such/folder/at/all", "nobody/nothing"])
def test_paths_that_are_nothing(path):
  with pytest.raises(UserError, match=path):
    huggingface.load(path)


def test_pickles_are_read_only_when_allowed(tmp_path):
  import torch

  folder, model = saved(tmp_path, V1_0, "bfloat16")
  expected, _ = huggingface.load(folder)
  (folder / "model.safetensors").unlink()
  torch.save(model.state_dict(), folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="--allow_pickle"):
    huggingface.load(folder)
  params, _ = huggingface.load(folder, allow_pickle=True)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


class _Evil:
  def __reduce__(self):
    return os.mkdir, ("evil",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
  import torch

  monkeypatch.chdir(tmp_path)
  folder, _ = saved(tmp_path, V1_0)
  (folder / "model.safetensors").unlink()
  torch.save({"shared.weight": _Evil()}, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="weights only"):
    huggingface.load(folder, allow_pickle=True)
  assert not (tmp_path / "evil").exists()


def test_save_is_whole_or_absent(tmp_path, monkeypatch):
  params = jax.tree.map(np.asarray, t5.init(V1_1, jax.random.key(0)))
  huggingface.save(tmp_path / "a", params, V1_1)
  with pytest.raises(UserError, match="already exists"):
    huggingface.save(tmp_path / "a", params, V1_1)
  with pytest.raises(ValueError, match="encoder/layers/feed_forward/gate"):
    huggingface.save(tmp_path / "b", params, dataclasses.replace(V1_1, feed_forward="relu"))
  base = json.loads((tmp_path / "a" / "config.json").read_text())
  with pytest.raises(UserError, match="another model: .*d_ff"):
    huggingface.save(tmp_path / "b", params, V1_1, base_config=base | {"d_ff": 41})

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(UserError, match="No space left on device; free space"):
    huggingface.save(tmp_path / "b", params, V1_1)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_tokenizer_files_and_unknown_values_are_carried_along(tmp_path):
  folder, _ = saved(tmp_path, V1_1)
  (folder / "tokenizer.json").write_text("{}")
  params, config = huggingface.load(folder)
  base = huggingface.read_json(folder) | {"task_specific_params": {"x": 1}, "dropout_rate": 0.25}
  huggingface.save(tmp_path / "ours", params, config, tokenizer_from=folder, base_config=base)
  assert {path.name for path in (tmp_path / "ours").iterdir()} == {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "generation_config.json",
  }
  found = huggingface.read_json(tmp_path / "ours")
  assert found["task_specific_params"] == {"x": 1} and found["dropout_rate"] == 0.25


_PEAK = """
import os, resource, sys, threading
from factshock.models.formats import huggingface
import jax, numpy as np
jax.block_until_ready(jax.numpy.zeros(3) + 1)
def resident():
  return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, peak, done = resident(), [0], threading.Event()
def watch():
  while not done.wait(0.002):
    peak[0] = max(peak[0], resident())
thread = threading.Thread(target=watch, daemon=True)
thread.start()
params, config = huggingface.load(sys.argv[1])
done.set(); thread.join()
print(peak[0] - before, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_loading_holds_one_copy(tmp_path):
  config = dataclasses.replace(
    V1_1,
    vocab_size=16384,
    d_model=1024,
    d_ff=4096,
    num_heads=16,
    d_kv=64,
    encoder_layers=5,
    decoder_layers=5,
    param_dtype="bfloat16",
  )
  value = np.full((4096, 4096), 0.5, ml_dtypes.bfloat16)
  shapes = {part.name: part.shape for part in names.tensors(config)}
  tensors = [
    files.Writable(
      name,
      shape,
      value.dtype,
      lambda size=np.prod(shape), shape=shape: (
        np.resize(value.reshape(-1)[:size], shape)
        if size <= value.size
        else np.tile(value.reshape(-1), -(-size // value.size))[:size].reshape(shape)
      ),
    )
    for name, shape in shapes.items()
  ]
  huggingface.write_folder(
    tmp_path / "big", tensors, huggingface.to_json(config, "bfloat16"), shard_bytes=1e8
  )
  environment = {key: text for key, text in os.environ.items() if key != "XLA_FLAGS"}
  done = subprocess.run(
    [sys.executable, "-c", _PEAK, str(tmp_path / "big")],
    capture_output=True,
    text=True,
    env=environment,
    timeout=120,
  )
  shutil.rmtree(tmp_path / "big")
  assert done.returncode == 0, done.stderr
  growth, size = map(int, done.stdout.split())
  assert 3.5e8 < size < 5e8 and growth < 1.25 * size


def test_a_revision_may_stand_behind_the_hubs_name(monkeypatch, tmp_path):
  import huggingface_hub

  asked = []
  monkeypatch.setattr(
    huggingface_hub,
    "snapshot_download",
    lambda name, revision, allow_patterns: asked.append((name, revision)) or str(tmp_path),
  )
  for path in ("org/name@v1.0", "org/name", "name@refs/pr/3"):
    assert not belongings.is_checkpoint(path)
    with pytest.raises(UserError, match="config.json"):
      huggingface.config_of(path)
  assert asked == [("org/name", "v1.0"), ("org/name", None), ("name", "refs/pr/3")]
