"""GGUF files: every architecture and type against transformers and package gguf; every error."""

import json
import re
import shutil
import struct
import sys

import gguf
import gguf_models
import jax
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.checkpoints import belongings, conversion, loading, mixing
from factshock.data import pretrained_tokenizers, tokenizers
from factshock.models import families
from factshock.models.formats import huggingface
from factshock.models.formats.gguf import architectures, files, models
from factshock.runtime.errors import UserError

LLAMA = "llama"


def supported(model_type):
  return any(model_type in family.huggingface.model_types for family in families.known())


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
  """A file of a Llama, and the model of transformers that it was written from."""
  path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
  return path, gguf_models.write_model(path, LLAMA)


def test_the_names_of_all_architectures_are_those_of_package_gguf():
  assert {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "smollm3", "t5"} == set(
    architectures.KNOWN
  )
  assert set(architectures.KNOWN) == {*gguf_models.ARCHITECTURES, "t5"}


@pytest.mark.parametrize("architecture", sorted(gguf_models.ARCHITECTURES))
def test_a_decoder_is_the_model_it_was_written_from(tmp_path, architecture):
  path = tmp_path / "tiny.gguf"
  model = gguf_models.write_model(path, architecture)
  values, tensors = models.open_model(path)
  state = model.state_dict()
  tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
  assert tensors.keys() == state.keys() - tied
  shifted = architecture.startswith("gemma")  # stored as 1 + w, in float32
  for name, tensor in tensors.items():
    expected = state[name].numpy()
    if shifted and name.endswith("norm.weight"):
      expected = (expected + np.float32(1)) - np.float32(1)
    np.testing.assert_array_equal(tensor.read(), expected, name)
  # The config says all: a model made of it alone gives the same logits, beyond a window too.
  made = transformers.AutoModelForCausalLM.from_config(
    transformers.AutoConfig.for_model(**values)
  ).eval()
  made.load_state_dict(state)
  tokens = torch.arange(3, 43)[None]
  with torch.no_grad():
    torch.testing.assert_close(made(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)
  if supported(values["model_type"]):
    params, config = huggingface.load(path)
    family = families.of(config)
    batch = {"tokens": np.arange(3, 43)[None]}
    logits = family.head(params, config, family.hidden(params, config, batch))
    with torch.no_grad():
      expected = model(tokens).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    {"model_type": "umt5"},
  ],
  ids=["v1.1", "v1.0", "umt5"],
)
def test_a_t5_is_the_model_it_was_written_from(tmp_path, changes):
  model = gguf_models.random_model("t5", **changes)
  gguf_models.write_model(tmp_path / "t5.gguf", "t5", model)
  model.save_pretrained(tmp_path / "folder")
  source = huggingface.open_source(tmp_path / "t5.gguf")
  expected = huggingface.open_source(tmp_path / "folder")
  assert families.differences(source.config, expected.config) == []
  assert source.tensors.keys() == expected.tensors.keys()
  for name, tensor in source.tensors.items():
    np.testing.assert_array_equal(tensor.read(), expected.tensors[name].read(), name)


def quantizable(kind):
  try:
    gguf.quants.quantize(np.zeros((1, 256), np.float32), kind)
  except NotImplementedError:
    return False
  return True


KINDS = [
  kind
  for kind in gguf.GGMLQuantizationType
  if hasattr(gguf.quants, kind.name) or kind.name in ("F32", "F16", "F64")
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_type_of_numbers_is_read_as_the_package_reads_it(tmp_path, kind):
  rng = np.random.default_rng(kind)
  shape = (24, 512)
  block, size = gguf.GGML_QUANT_SIZES[kind]
  numbers = rng.normal(size=shape)
  if kind.name == "F64":
    stored = numbers
  elif quantizable(kind):
    stored = gguf.quants.quantize(numbers.astype(np.float32), kind)
  else:  # any bytes are numbers of such a type
    stored = rng.integers(0, 256, (shape[0], shape[1] // block * size), np.uint8)
  path = tmp_path / "x.gguf"
  # Packed types are written as bytes, whose shape says how many numbers they are.
  packed = stored.dtype == np.uint8
  gguf_models.write(
    path, LLAMA, {"a": np.ones((1, 3), np.float32), "x": stored}, quantized={"x": (stored, kind)}
  )
  tensor = files.read(path).tensors["x"]
  expected = numbers if kind.name == "F64" else gguf.quants.dequantize(stored, kind)
  assert tensor.shape == shape == expected.shape and tensor.kind.name == kind.name
  assert packed or tensor.dtype.itemsize == size
  got = tensor.read()
  np.testing.assert_array_equal(got.astype(expected.dtype), expected)
  transposed = np.empty(shape[::-1], np.float32)
  tensor.read_into(transposed, transposed=True)
  np.testing.assert_array_equal(transposed, expected.T.astype(np.float32))
  for count in (100, 512, 10**6):
    blocks = [part.copy() for part in tensor.blocks(count)]
    assert {len(part) for part in blocks[:-1]} <= {count}
    np.testing.assert_array_equal(np.concatenate(blocks), got.reshape(-1))


def test_a_quantized_llama_has_its_rows_in_order(tmp_path, llama):
  """Rows are reordered in blocks of a head, after they are dequantised."""
  _, model = llama
  tensors = gguf_models.tensors_of(LLAMA, model)
  kind = gguf.GGMLQuantizationType.Q8_0
  quantized = {}
  for name, array in tensors.items():
    if array.ndim == 2:
      quantized[name] = (gguf.quants.quantize(array, kind), kind)
  path = tmp_path / "q.gguf"
  gguf_models.write_model(path, LLAMA, model, quantized=quantized)
  name = "model.layers.1.self_attn.k_proj.weight"
  got = huggingface.open_source(path).tensors[name].read()
  stored = gguf.quants.dequantize(*quantized["blk.1.attn_k.weight"])
  heads = model.config.num_key_value_heads
  again = gguf_models.reordered(got, heads)
  np.testing.assert_array_equal(again, stored)
  np.testing.assert_allclose(got, model.state_dict()[name].numpy(), atol=0.02)


@pytest.mark.parametrize(
  ("dtype", "params", "computes"),
  [
    ("BF16", "bfloat16", "bfloat16"),
    ("F16", "float32", "bfloat16"),
    ("Q4_0", "float32", "float32"),
  ],
)
def test_the_dtype_is_that_of_a_folder_of_the_same_numbers(
  tmp_path, llama, dtype, params, computes
):
  _, model = llama
  kind = gguf.GGMLQuantizationType[dtype]
  quantized = {
    name: (gguf.quants.quantize(array, kind), kind)
    for name, array in gguf_models.tensors_of(LLAMA, model).items()
    if array.ndim == 2
  }
  gguf_models.write_model(tmp_path / "x.gguf", LLAMA, model, quantized=quantized)
  config = huggingface.open_source(tmp_path / "x.gguf").config
  assert (config.param_dtype, config.dtype) == (params, computes)


def test_a_window_makes_a_mistral(tmp_path):
  model = gguf_models.random_model(LLAMA)
  path = tmp_path / "m.gguf"
  gguf_models.write_model(
    path,
    LLAMA,
    model,
    [
      lambda writer: gguf_models.add_tokenizer(writer, 300),
      lambda writer: writer.add_sliding_window(7),
    ],
  )
  config = huggingface.config_of(path)
  assert config.sliding_window == 7
  assert models.read_json(path)["model_type"] == "mistral"


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_positions_are_found_in_its_factors(tmp_path, factor):
  """transformers leaves them out: its answers of such a file are those of another model."""
  rope = {
    "rope_type": "llama3",
    "factor": factor,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
  }
  model = gguf_models.random_model(
    LLAMA, hidden_size=256, num_hidden_layers=1, rope_parameters=rope, rope_theta=500000.0
  )
  plain = gguf_models.random_model(
    LLAMA, hidden_size=256, num_hidden_layers=1, rope_theta=500000.0
  ).model.rotary_emb.inv_freq
  factors = (plain / model.model.rotary_emb.inv_freq).numpy()
  tensors = gguf_models.tensors_of(LLAMA, model)
  path = tmp_path / "l3.gguf"
  add = [
    lambda writer: gguf_models.add_sizes(writer, LLAMA, model.config),
    lambda writer: gguf_models.add_tokenizer(writer, 300),
  ]
  gguf_models.write(path, LLAMA, {**tensors, "rope_freqs.weight": factors}, add)
  assert huggingface.config_of(path).rope_scaling == (factor, 1.0, 4.0, 8192)
  ones = np.ones_like(factors)
  gguf_models.write(path, LLAMA, {**tensors, "rope_freqs.weight": ones}, add)
  assert huggingface.config_of(path).rope_scaling is None
  gguf_models.write(path, LLAMA, {**tensors, "rope_freqs.weight": factors * 1.5}, add)
  with pytest.raises(UserError, match=r"rope_freqs.weight holds factors .* Llama 3.1 to 3.3"):
    huggingface.config_of(path)


# Errors.


def error_of(path):
  with pytest.raises(UserError) as caught:
    huggingface.load(path)
  text = str(caught.value)
  assert text.startswith(str(path)) and "\n" not in text
  return text


def test_one_error_each_for_what_is_no_such_file(tmp_path, llama):
  path, _ = llama
  content = path.read_bytes()
  changed = tmp_path / "x.gguf"

  def error_with(data):
    changed.write_bytes(data)
    return error_of(changed)

  assert "got nothing there" in error_of(tmp_path / "none.gguf")
  assert "got an empty one" in error_with(b"")
  assert "does not begin with GGUF" in error_with(b"{}")
  assert "does not begin with GGUF" in error_with(b"PK\x03\x04" + content[4:])
  for share in (0.1, 0.3, 0.9, 0.999):
    assert "cut off" in error_with(content[: int(len(content) * share)])
  swapped = content[:4] + struct.pack(">I", 3) + content[8:]
  assert "the other byte order (big-endian)" in error_with(swapped)
  assert "version 1 of the GGUF format; supported are 2 and 3" in error_with(
    content[:4] + struct.pack("<I", 1) + content[8:]
  )
  (tmp_path / "folder.gguf").mkdir()
  assert not files.is_file(tmp_path / "folder.gguf")


def test_a_big_endian_file_of_the_package_is_named_so(tmp_path):
  writer = gguf.GGUFWriter(tmp_path / "b.gguf", LLAMA, endianess=gguf.GGUFEndian.BIG)
  writer.add_tensor("x", np.ones((2, 2), np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  assert "other byte order" in error_of(tmp_path / "b.gguf")


def test_an_architecture_that_is_not_supported_says_which_are(tmp_path):
  path = gguf_models.write(tmp_path / "x.gguf", "mamba", {"x": np.ones((2, 2), np.float32)})
  assert "the architecture 'mamba' is not supported; supported are gemma2, gemma3, llama" in (
    error_of(path)
  )
  writer = gguf.GGUFWriter(tmp_path / "y.gguf", LLAMA)
  writer.add_type("adapter")
  writer.add_tensor("x", np.ones((2, 2), np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  assert "holds no model but 'adapter'" in error_of(tmp_path / "y.gguf")


def test_a_part_of_several_is_refused(tmp_path, llama):
  path, model = llama
  part = tmp_path / "big-00001-of-00003.gguf"
  shutil.copy(path, part)
  assert "is one of 3 parts of a model; join them" in error_of(part)
  named = tmp_path / "x.gguf"
  gguf_models.write_model(named, LLAMA, model, [lambda writer: writer.add_uint16("split.count", 2)])
  assert "is one of 2 parts" in error_of(named)
  whole = tmp_path / "big-00001-of-00001.gguf"
  shutil.copy(path, whole)
  huggingface.open_source(whole)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop("blk.1.ffn_up.weight"), r"missing model.layers.1.mlp.up_proj.weight"),
    (lambda t: t.update(extra=t["output.weight"]), r"unexpected extra \[300, 32\]"),
    (
      lambda t: t.update({"output_norm.weight": np.ones(31, np.float32)}),
      r"mis-shaped model.norm.weight expected \[32\] got \[31\]",
    ),
    (
      lambda t: t.update({"blk.0.attn_q.weight": t["blk.0.attn_q.weight"][:30]}),
      r"mis-shaped model.layers.0.self_attn.q_proj.weight",
    ),
    (
      lambda t: t.update({"token_embd.weight": t["token_embd.weight"][:7]}),
      r"mis-shaped model.embed_tokens.weight",
    ),
  ],
)
def test_tensors_that_do_not_fit_the_metadata_are_named(tmp_path, llama, change, message):
  _, model = llama
  tensors = gguf_models.tensors_of(LLAMA, model)
  change(tensors)
  path = tmp_path / "x.gguf"
  add = [
    lambda writer: gguf_models.add_sizes(writer, LLAMA, model.config),
    lambda writer: gguf_models.add_tokenizer(writer, 300),
  ]
  gguf_models.write(path, LLAMA, tensors, add)
  text = error_of(path)
  assert "the weights do not fit its metadata" in text and re.search(message, text)


@pytest.mark.parametrize(
  ("add", "message"),
  [
    (lambda w: w.add_expert_count(8), "llama.expert_count=8 is not supported"),
    (lambda w: w.add_logit_scale(0.5), "llama.logit_scale=0.5 is not supported"),
    (lambda w: w.add_causal_attention(False), "attention.causal=False is not supported"),
    (lambda w: w.add_value_length(9), "llama.attention.value_length=9 is not supported"),
    (
      lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(4)),
      "'yarn' is not supported",
    ),
  ],
)
def test_metadata_that_we_cannot_honour_are_refused_by_name(tmp_path, llama, add, message):
  _, model = llama
  path = tmp_path / "x.gguf"
  gguf_models.write_model(path, LLAMA, model, [lambda w: gguf_models.add_tokenizer(w, 300), add])
  assert message in error_of(path)


def test_layers_of_different_sizes_are_refused(tmp_path, llama):
  _, model = llama
  path = tmp_path / "x.gguf"
  tensors = gguf_models.tensors_of(LLAMA, model)

  def add(widths):
    def sizes(writer):
      gguf_models.add_sizes(writer, LLAMA, model.config)
      writer.kv_data[0].pop("llama.feed_forward_length")
      writer.add_array("llama.feed_forward_length", widths)
      gguf_models.add_tokenizer(writer, 300)

    return gguf_models.write(path, LLAMA, tensors, [sizes])

  huggingface.open_source(add([64, 64, 64, 64]))
  assert "llama.feed_forward_length differs from layer to layer" in error_of(add([64, 64, 32, 64]))


def test_a_type_that_the_package_cannot_dequantise_is_named(tmp_path):
  stored = np.zeros((2, 292), np.uint8)
  kind = gguf.GGMLQuantizationType.Q8_K
  path = gguf_models.write(
    tmp_path / "x.gguf", LLAMA, {"x": stored}, quantized={"x": (stored, kind)}
  )
  text = error_of(path)
  assert "x is of type Q8_K, which package gguf cannot dequantise (it can BF16" in text


def test_without_the_package_it_is_named(monkeypatch, llama):
  monkeypatch.setitem(sys.modules, "gguf", None)
  with pytest.raises(UserError, match=r"pip install 'factshock\[gguf\]'"):
    huggingface.load(llama[0])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_head_gives_one_error_or_a_file_as_the_package_reads_it(
  llama, tmp_path_factory, data
):
  path, _ = llama
  content = bytearray(path.read_bytes())
  head = files.read(path).tensors["output.weight"].offset
  changes = data.draw(st.lists(st.tuples(st.integers(0, head), st.integers(1, 255)), max_size=3))
  for at, value in changes:
    content[at] ^= value
  cut = data.draw(st.none() | st.integers(0, len(content)))
  changed = tmp_path_factory.getbasetemp() / "changed.gguf"
  changed.write_bytes(bytes(content[:cut]))
  try:
    source = huggingface.open_source(changed)
    arrays = {name: tensor.read() for name, tensor in source.tensors.items()}
  except UserError as error:
    assert len(str(error)) < 5000
    return
  assert {name: array.shape for name, array in arrays.items()}


# Wherever a model is named.


def test_convert_writes_a_folder_and_a_checkpoint_with_tokenizer_and_ends(tmp_path, llama):
  path, model = llama
  conversion.convert(path, tmp_path / "hf", "huggingface")
  conversion.convert(path, tmp_path / "step", "orbax")
  loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
  for name, tensor in model.state_dict().items():
    torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
  generation = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
  assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
  assert loaded.generation_config.eos_token_id == 2 and loaded.config.pad_token_id == 0
  own, _ = loading.open_model(str(tmp_path / "step"))
  given, origin = loading.open_model(str(path))
  assert origin.arm == "tiny"
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
  for text in ("the 12 the", "é\n\n</s> x"):
    ids = theirs.encode(text, add_special_tokens=False)
    assert own.tokenizer.encode(text) == given.tokenizer.encode(text)
    assert "</s>" in text or given.tokenizer.encode(text) == ids
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), own.params, given.params))
  again = tmp_path / "again"
  conversion.convert(tmp_path / "step", again, "huggingface")
  for file in ("tokenizer.json", "generation_config.json"):
    assert (again / file).read_bytes() == (tmp_path / "hf" / file).read_bytes()
  assert tokenizers.load(again).digest == given.tokenizer.digest


def test_mix_takes_files_beside_folders(tmp_path, llama):
  path, model = llama
  other = gguf_models.random_model(LLAMA)
  with torch.no_grad():
    for parameter in other.parameters():
      parameter.mul_(3)
  other.save_pretrained(tmp_path / "other")
  pretrained_tokenizers.load(path).save(tmp_path / "other")
  mixing.mix_checkpoints([path, tmp_path / "other"], [0.5, 0.5], tmp_path / "mixed")
  mixed = huggingface.open_source(tmp_path / "mixed").tensors
  for name, tensor in model.state_dict().items():
    np.testing.assert_allclose(mixed[name].read(), tensor.numpy() * 2, rtol=1e-6, atol=1e-6)
  pretrained_tokenizers.load(tmp_path / "mixed")


def test_a_file_is_known_by_a_digest(tmp_path, llama):
  path, _ = llama
  assert not belongings.is_checkpoint(str(path)) and not belongings.is_checkpoint("a/b.gguf")
  copy = tmp_path / "copy.gguf"
  shutil.copy(path, copy)
  digest = belongings.model_digest(str(path))
  assert digest and belongings.model_digest(str(copy)) == digest
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  copy.write_bytes(content)
  assert belongings.model_digest(str(copy)) != digest
