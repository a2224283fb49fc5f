"""Adapters in PEFT's format: PEFT's load here, ours load in PEFT, with the same logits; merged by
every verb; bad input.
"""

import dataclasses
import functools
import json
import os
import shutil

import hf_llama
import hf_t5
import jax
import numpy as np
import pytest

from factshock.checkpoints import conversion, mixing, store
from factshock.models import decoder, lora, t5
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import adapters as peft_format
from factshock.runtime.errors import UserError

LLAMA = decoder.LlamaConfig(
  vocab_size=40, d_model=16, d_ff=24, num_heads=4, num_kv_heads=2, d_kv=4, layers=3, max_length=64
)
MISTRAL = decoder.LlamaConfig(
  vocab_size=40,
  d_model=16,
  d_ff=24,
  num_heads=4,
  num_kv_heads=1,
  d_kv=4,
  layers=2,
  max_length=64,
  sliding_window=5,
)
T5 = t5.T5Config(
  vocab_size=40, d_model=16, d_ff=24, num_heads=2, d_kv=8, encoder_layers=2, decoder_layers=3
)
RELU = t5.T5Config(
  vocab_size=40,
  d_model=16,
  d_ff=24,
  num_heads=2,
  d_kv=8,
  encoder_layers=2,
  decoder_layers=2,
  feed_forward="relu",
  tie_head=True,
)
UMT5 = dataclasses.replace(T5, bias_in_every_layer=True)
CASES = {  # config, PEFT's targets, ours
  "llama": (LLAMA, ["q_proj", "v_proj", "down_proj"], ["query", "value", "down"]),
  "mistral": (
    MISTRAL,
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    lora.WEIGHTS,
  ),
  "t5": (T5, ["q", "v"], ["query", "value"]),
  "relu": (RELU, ["q", "o", "wi", "wo"], ["query", "out", "up", "down"]),
  "umt5": (UMT5, ["q", "v", "wi_0"], ["query", "value", "gate"]),
}


def base_folder(folder, config, seed=0):
  """(transformers' model, the folder it is saved in)."""
  model = (hf_llama if isinstance(config, decoder.LlamaConfig) else hf_t5).peer(config, seed)
  params = (hf_llama if isinstance(config, decoder.LlamaConfig) else hf_t5).params(
    config, model.state_dict()
  )
  huggingface.save(folder, params, config)
  return model, str(folder)


@functools.partial(jax.jit, static_argnums=1)
def forward(params, config, batch):
  if isinstance(config, decoder.LlamaConfig):
    return decoder.forward(params, config, batch)
  return t5.forward(params, config, batch["inputs"], batch["targets"])


def batch_of(config):
  return (
    hf_llama.tokens(config, rows=2, length=8)[:1]
    if isinstance(config, decoder.LlamaConfig)
    else ({name: array[:1] for name, array in hf_t5.random_batch(config).items()})
  )


def their_logits(model, config):
  import torch

  batch = batch_of(config)
  with torch.no_grad():
    if isinstance(config, decoder.LlamaConfig):
      return model(input_ids=torch.tensor(batch.astype(np.int64))).logits.numpy()
    inputs, labels = (torch.tensor(batch[name].astype(np.int64)) for name in ("inputs", "targets"))
    return model(
      input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels
    ).logits.numpy()


def random_adapters(config, targets, rank=3):
  family = decoder if isinstance(config, decoder.LlamaConfig) else t5
  shapes = jax.eval_shape(lambda: family.init(config, jax.random.key(0)))
  fresh = lora.init(shapes, jax.random.key(1), rank, targets)
  random = np.random.default_rng(5)
  return jax.tree.map(lambda leaf: (0.3 * random.normal(size=leaf.shape)).astype(np.float32), fresh)


def peft_model(folder, model, targets, **options):
  import peft
  import torch

  torch.manual_seed(3)
  made = peft.get_peft_model(
    model, peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": targets, **options})
  )
  for name, value in made.named_parameters():
    if "lora_B" in name:
      value.data.normal_(0, 0.3)
  made.eval().save_pretrained(folder)
  return made


@pytest.mark.parametrize("name", CASES)
def test_adapters_of_peft_load_here_with_its_logits(tmp_path, name):
  pytest.importorskip("peft")
  config, targets, _ = CASES[name]
  model, base = base_folder(tmp_path / "base", config)
  plain = their_logits(model, config)
  model.name_or_path = model.config._name_or_path = base
  expected = their_logits(peft_model(tmp_path / "peft", model, targets), config)
  params, got = huggingface.load(tmp_path / "peft")
  assert got == huggingface.config_of(base) == huggingface.config_of(tmp_path / "peft")
  logits = forward(params, config, batch_of(config))
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  assert np.abs(expected - plain).max() > 0.05 * np.abs(plain).max()  # the adapters do something


@pytest.mark.parametrize(
  "options",
  [
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
    {"use_rslora": True},
    {"layers_to_transform": [1]},
  ],
)
def test_ranks_scales_and_layers_of_their_own(tmp_path, options):
  pytest.importorskip("peft")
  model, base = base_folder(tmp_path / "base", LLAMA)
  model.name_or_path = model.config._name_or_path = base
  expected = their_logits(
    peft_model(tmp_path / "peft", model, ["q_proj", "v_proj"], **options), LLAMA
  )
  logits = forward(huggingface.load(tmp_path / "peft")[0], LLAMA, batch_of(LLAMA))
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_ours_load_in_peft_with_our_logits_and_come_back_bit_identical(tmp_path, name):
  peft = pytest.importorskip("peft")
  config, targets, names = CASES[name]
  model, base = base_folder(tmp_path / "base", config)
  made = huggingface.Adapters(random_adapters(config, names), 3, 6.0, base)
  huggingface.write_adapters(tmp_path / "ours", made, config)
  assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())[
    "target_modules"
  ] == sorted(targets)
  params = huggingface.load(base)[0]
  logits = forward(lora.attach(params, made.tree, made.scale), config, batch_of(config))
  expected = their_logits(peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval(), config)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
  again = peft_format.read(str(tmp_path / "ours"), config)
  jax.tree.map(np.testing.assert_array_equal, again.tree, made.tree)
  assert (again.rank, again.alpha, again.base) == (made.rank, made.alpha, made.base)


def test_targets_in_one_half_of_a_t5_are_named_in_full(tmp_path):
  peft = pytest.importorskip("peft")
  model, base = base_folder(tmp_path / "base", T5)
  made = huggingface.Adapters(random_adapters(T5, ["decoder/cross_attention/query"]), 3, 6.0, base)
  huggingface.write_adapters(tmp_path / "ours", made, T5)
  named = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["target_modules"]
  assert named == [f"decoder.block.{layer}.layer.1.EncDecAttention.q" for layer in range(3)]
  logits = forward(lora.attach(huggingface.load(base)[0], made.tree, made.scale), T5, batch_of(T5))
  expected = their_logits(peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval(), T5)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def trained(tmp_path):
  """(folder of a checkpoint of adapters, its base's folder, the tree of adapters)."""
  _, base = base_folder(tmp_path / "base", LLAMA)
  tree = random_adapters(LLAMA, ["query", "down"])
  record = {
    "arm": "finetuned",
    "seed": 0,
    "workdir": str(tmp_path),
    "lora": {"rank": 3, "alpha": 6.0, "base": base},
    "experiment": {"model": {"family": "llama", **vars(LLAMA)}},
  }
  folder = tmp_path / "run"
  store.save(str(folder), 7, params=tree, config=record)
  return str(folder), base, tree


def test_a_checkpoint_of_adapters_is_exported_merged_and_as_peft(tmp_path, trained):
  folder, base, tree = trained
  expected = lora.merge(huggingface.load(base)[0], tree, 2.0)
  for to, read in (
    ("huggingface", lambda path: huggingface.load(path)[0]),
    ("orbax", store.restore_params),
  ):
    conversion.convert(folder, tmp_path / to, to)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
      read(tmp_path / to),
      expected,
    )
  conversion.convert(folder, tmp_path / "peft", "peft")
  jax.tree.map(
    np.testing.assert_array_equal, peft_format.read(str(tmp_path / "peft"), LLAMA).tree, tree
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    huggingface.load(tmp_path / "peft")[0],
    expected,
  )
  conversion.convert(tmp_path / "peft", tmp_path / "again", "peft")
  for name in (peft_format.CONFIG, peft_format.WEIGHTS):
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "peft" / name).read_bytes()


def test_a_base_beside_the_adapters_is_found(tmp_path, trained):
  folder, base, _ = trained
  conversion.convert(folder, tmp_path / "peft", "peft")
  edit(tmp_path / "peft" / "adapter_config.json", base_model_name_or_path="../base")
  assert os.path.samefile(peft_format.base_of(str(tmp_path / "peft")), base)


def test_a_base_beside_the_adapters_goes_before_one_of_the_current_folder(
  tmp_path, trained, monkeypatch, capsys
):
  folder, base, _ = trained
  conversion.convert(folder, tmp_path / "peft", "peft")
  edit(tmp_path / "peft" / "adapter_config.json", base_model_name_or_path="../base")
  expected, _ = huggingface.load(tmp_path / "peft")
  (tmp_path / "elsewhere" / "here").mkdir(parents=True)
  shutil.copytree(base, tmp_path / "elsewhere" / "base")
  settings = tmp_path / "elsewhere" / "base" / "config.json"
  edit(settings, vocab_size=7)  # a model that the adapters do not fit
  monkeypatch.chdir(tmp_path / "elsewhere" / "here")
  for path in (tmp_path / "peft", "../../peft"):
    assert os.path.samefile(peft_format.base_of(path), base)
  found, _ = huggingface.load("../../peft")
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert "its base ../base is read from beside it" in capsys.readouterr().err
  edit(tmp_path / "peft" / "adapter_config.json", base_model_name_or_path="../../base")
  assert os.path.samefile(peft_format.base_of(tmp_path / "peft"), base)  # as PEFT, from here
  edit(tmp_path / "peft" / "adapter_config.json", base_model_name_or_path="../nowhere")
  with pytest.raises(UserError, match="nowhere"):
    huggingface.load(tmp_path / "peft")


def test_adapters_are_not_averaged(tmp_path, trained):
  folder, base, _ = trained
  conversion.convert(folder, tmp_path / "peft", "peft")
  for paths in ([folder, folder], [base, str(tmp_path / "peft")]):
    with pytest.raises(UserError, match="adapters cannot be averaged as models; merge them"):
      mixing.mix_checkpoints(paths, [0.5, 0.5], str(tmp_path / "mixed"))
  assert not (tmp_path / "mixed").exists()


def edit(path, **values):
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
  "values, words",
  [
    ({"peft_type": "IA3"}, "only plain LoRA is supported, got peft_type 'IA3'"),
    ({"use_dora": True}, "use_dora True"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"base_model_name_or_path": None}, "expected the path or hub id of a model"),
    ({"base_model_name_or_path": "/no/where"}, "/no/where: .*nothing there"),
  ],
)
def test_settings_that_are_not_supported(tmp_path, trained, values, words):
  conversion.convert(trained[0], tmp_path / "peft", "peft")
  edit(tmp_path / "peft" / "adapter_config.json", **values)
  with pytest.raises(UserError, match=words):
    huggingface.load(tmp_path / "peft")


def test_every_misfit_is_named(tmp_path, trained):
  from safetensors import numpy as safetensors

  conversion.convert(trained[0], tmp_path / "peft", "peft")
  path = tmp_path / "peft" / "adapter_model.safetensors"
  tensors = safetensors.load_file(path)
  first, second = (
    "base_model.model.model.layers.0.self_attn.q_proj",
    "base_model.model.model.layers.1.self_attn.q_proj",
  )
  del tensors[f"{first}.lora_B.weight"]
  tensors[f"{second}.lora_A.weight"] = np.zeros((3, 17), np.float32)
  tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = np.zeros(
    (3, 16), np.float32
  )
  safetensors.save_file(tensors, path)
  with pytest.raises(UserError) as error:
    huggingface.load(tmp_path / "peft")
  for words in (
    f"missing {first}.lora_B.weight",
    f"mis-shaped {second}.lora_A.weight expected [3, 16] got [3, 17]",
    "unexpected base_model.model.model.layers.9",
  ):
    assert words in str(error.value)


def test_whole_weights_are_no_adapters(tmp_path):
  _, base = base_folder(tmp_path / "base", LLAMA)
  with pytest.raises(UserError, match="holds whole weights, no low-rank adapters"):
    conversion.convert(base, tmp_path / "out", "peft")
  assert not (tmp_path / "out").exists()
