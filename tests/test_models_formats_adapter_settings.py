"""Settings of PEFT's adapters: what is understood gives PEFT's logits, all else is refused by
name.
"""

import json
import time

import numpy as np
import pytest
import test_models_formats_adapters as cases

from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import adapter_settings
from factshock.models.formats.huggingface import adapters as peft_format
from factshock.runtime.errors import UserError

LLAMA = cases.LLAMA


@pytest.fixture
def peft_folder(tmp_path):
  """Returns a function: LoRA options -> (folder that PEFT wrote, its model's own logits)."""
  pytest.importorskip("peft")

  def make(**options):
    model, base = cases.base_folder(tmp_path / "base", LLAMA)
    model.name_or_path = model.config._name_or_path = base
    options = {"task_type": "CAUSAL_LM"} | options
    made = cases.peft_model(tmp_path / "peft", model, ["q_proj", "v_proj"], **options)
    return tmp_path / "peft", cases.their_logits(made, LLAMA)

  return make


def loaded_by_peft(folder):
  """Returns the logits of a folder as PEFT loads it, on the base it names."""
  import peft
  import transformers

  base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
  model = transformers.LlamaForCausalLM.from_pretrained(base)
  return cases.their_logits(peft.PeftModel.from_pretrained(model, folder).eval(), LLAMA)


def ours(folder):
  return cases.forward(huggingface.load(folder)[0], LLAMA, cases.batch_of(LLAMA))


def assert_close(logits, expected):
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


UNDERSTOOD = {
  "random beginning": {"init_lora_weights": False},
  "gaussian": {"init_lora_weights": "gaussian"},
  "orthogonal": {"init_lora_weights": "orthogonal"},
  "eva": {"init_lora_weights": "eva"},
  "dropout of training": {"lora_dropout": 0.3},
  "a pattern as targets": {"target_modules": r".*\.(?:self_attn|attn)\.(q|v)_proj"},
  "excluded modules": {"exclude_modules": ["0.self_attn.q_proj"]},
  "layers and their pattern": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
  "one layer": {"layers_to_transform": 1},
  "ranks and alphas by pattern": {
    "rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 2, "model.layers.2.self_attn.v_proj": 6},
    "alpha_pattern": {r"^model\.layers\.\d{1,2}\.self_attn\.(q|k)_proj": 5, "v_proj": 3},
    "use_rslora": True,
  },
  "alpha 0": {"lora_alpha": 0, "alpha_pattern": {"q_proj": 0}},
  "alpha 0 of the first": {"alpha_pattern": {r"0\.self_attn\.q_proj": 0}},
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_is_understood_gives_pefts_logits(peft_folder, name):
  folder, expected = peft_folder(**UNDERSTOOD[name])
  assert_close(ours(folder), expected)
  assert_close(loaded_by_peft(folder), expected)


@pytest.mark.parametrize(
  "options, named",
  [
    ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
    ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
    ({"alora_invocation_tokens": [5, 6]}, r"alora_invocation_tokens \[5, 6\]"),
    ({"use_dora": True}, "use_dora True"),
    ({"lora_bias": True}, "lora_bias True"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"trainable_token_indices": [3]}, r"trainable_token_indices \[3\]"),
    ({"layer_replication": [(0, 2), (1, 3)]}, "layer_replication"),
  ],
)
def test_what_peft_writes_otherwise_is_refused_by_name(peft_folder, options, named):
  folder, _ = peft_folder(**options)
  with pytest.raises(UserError, match=f"only plain LoRA is supported, got .*{named}"):
    huggingface.load(folder)


def test_a_pissa_adapter_that_peft_made_plain_is_read(tmp_path):
  """PEFT can write PiSSA's adapters for the model as it was, with twice the rank."""
  peft = pytest.importorskip("peft")
  model, base = cases.base_folder(tmp_path / "base", LLAMA)
  model.name_or_path = model.config._name_or_path = base
  config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")
  made = peft.get_peft_model(model, config)
  made.save_pretrained(tmp_path / "first")
  for name, value in made.named_parameters():
    if "lora_B" in name:
      value.data.mul_(1.5)
  first = str(tmp_path / "first")
  config.init_lora_weights = True  # as PEFT asks for, so that the first adapters are plain
  made.peft_config["default"].save_pretrained(first)
  made.peft_config["default"].init_lora_weights = "pissa"
  made.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=first)
  settings = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
  assert settings["init_lora_weights"] is True and settings["r"] == 4
  assert_close(ours(tmp_path / "plain"), cases.their_logits(made.eval(), LLAMA))


REFUSED_VALUES = [
  ({"lora_alpha": float("nan")}, "a finite number as lora_alpha, got nan"),
  ({"lora_alpha": float("inf")}, "a finite number as lora_alpha, got inf"),
  ({"lora_alpha": 10**400}, "a finite number as lora_alpha"),
  ({"lora_alpha": "16"}, "a finite number as lora_alpha, got '16'"),
  ({"lora_alpha": None}, "a finite number as lora_alpha"),
  ({"alpha_pattern": {"q_proj": float("nan")}}, "a number by pattern as alpha_pattern"),
  ({"alpha_pattern": ["q_proj"]}, "a number by pattern as alpha_pattern"),
  ({"rank_pattern": {"q_proj": 0}}, "a rank by pattern as rank_pattern"),
  ({"rank_pattern": {"q_proj": 2.5}}, "a rank by pattern as rank_pattern"),
  ({"r": 0}, "a whole number from 1 as r, got 0"),
  ({"r": True}, "a whole number from 1 as r"),
  ({"use_rslora": "yes"}, "true or false as use_rslora"),
  ({"revision": 5}, "text as revision"),
  ({"target_modules": {"a": 1}}, "names of modules, or a pattern as target_modules"),
  ({"layers_to_transform": ["0"]}, "numbers of layers as layers_to_transform"),
  ({"r": 7}, "q_proj expected rank 7 got 4"),
  ({"rank_pattern": {"q_proj": 2}}, "q_proj expected rank 2 got 4"),
  ({"target_modules": ["q_proj"]}, "v_proj is none of the modules that the settings name"),
  ({"exclude_modules": ["v_proj"]}, "v_proj is none of the modules"),
  ({"layers_to_transform": [1]}, "layers.0.self_attn.q_proj is none of the modules"),
  ({"layers_to_transform": 0, "layers_pattern": "(?P<index>l.*?)|x"}, "is none of the modules"),
  ({"alpha_pattern": {"(": 4}}, "expected regular expressions as patterns of modules"),
  ({"init_lora_weights": "corda"}, "init_lora_weights 'corda'"),
  ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'"),
  ({"init_lora_weights": "lora_ga"}, "init_lora_weights 'lora_ga'"),
  ({"init_lora_weights": "mica"}, "init_lora_weights 'mica'"),
  ({"init_lora_weights": None}, "init_lora_weights None"),
  ({"alora_invocation_tokens": []}, "alora_invocation_tokens"),
  ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
  ({"corda_config": {"x": 1}}, "corda_config"),
  ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
  ({"bias": "all"}, "bias 'all'"),
  ({"fan_in_fan_out": True}, "fan_in_fan_out True"),
  ({"use_qalora": True}, "use_qalora True"),
  ({"megatron_config": {"a": 1}}, "megatron_config"),
  ({"ensure_weight_tying": True}, "ensure_weight_tying True"),
  ({"use_bdlora": {"a": 1}}, "use_bdlora"),
  ({"something_of_tomorrow": "twice"}, "something_of_tomorrow 'twice'"),
  ({"peft_type": ["LORA"]}, "peft_type"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """Returns the settings of plain adapters and the folder to write them in."""
  pytest.importorskip("peft")
  folder = tmp_path_factory.mktemp("plain")
  model, base = cases.base_folder(folder / "base", LLAMA)
  model.name_or_path = model.config._name_or_path = base
  cases.peft_model(folder / "peft", model, ["q_proj", "v_proj"])
  settings = (folder / "peft" / "adapter_config.json").read_text()
  return folder / "peft", json.loads(settings)


@pytest.mark.parametrize("changes, words", REFUSED_VALUES)
def test_values_that_are_refused(plain, changes, words):
  folder, settings = plain
  (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
  with pytest.raises(UserError, match=words) as error:
    huggingface.load(folder)
  assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
  "changes",
  [
    {"something_of_tomorrow": None},
    {"something_of_tomorrow": False, "another": {}, "third": []},
    {"enable_lora": None, "merge_weights": False},
    {"peft_version": "9.9", "auto_mapping": {"parent_library": "x"}},
    {"target_modules": "all-linear"},
    {"target_modules": None},
  ],
)
def test_settings_that_change_nothing_are_accepted(plain, changes):
  folder, settings = plain
  (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
  huggingface.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 5000, '{"r": ' + "9" * 5000 + "}"])
def test_settings_that_are_no_json_object(plain, text):
  folder, settings = plain
  (folder / "adapter_config.json").write_text(text)
  with pytest.raises(UserError, match="adapter_config.json: expected"):
    huggingface.load(folder)


@pytest.mark.parametrize(
  "pattern",
  ["(a+)+$", "((([a-z._0-9]+)*)*)*!", "((a{1000}){1000}){1000}", "(.*)(.*)(.*)(.*)(.*)(.*)(.*)_"],
)
@pytest.mark.parametrize("key", ["alpha_pattern", "rank_pattern", "target_modules"])
def test_patterns_take_a_bounded_time(plain, monkeypatch, key, pattern):
  folder, settings = plain
  monkeypatch.setattr(adapter_settings, "_SECONDS", 0.3)
  value = pattern if key == "target_modules" else {pattern: 4}
  (folder / "adapter_config.json").write_text(json.dumps(settings | {key: value}))
  start = time.monotonic()
  try:
    huggingface.load(folder)
  except UserError as error:
    assert "adapter_config.json" in str(error)  # noqa: PT017  # either is right, if soon
  assert time.monotonic() - start < 10


def test_a_pattern_that_takes_for_ever_is_named(plain, monkeypatch):
  folder, settings = plain
  monkeypatch.setattr(adapter_settings, "_SECONDS", 0.2)
  patterns = {r"(([a-z]|\w|\.)+)+(?<!j)": 4}
  (folder / "adapter_config.json").write_text(json.dumps(settings | {"alpha_pattern": patterns}))
  with pytest.raises(UserError, match="patterns of modules take over"):
    huggingface.load(folder)


def test_a_tensor_that_stands_there_twice_is_refused(plain):
  from safetensors import numpy as safetensors

  folder, settings = plain
  (folder / "adapter_config.json").write_text(json.dumps(settings))
  path = folder / "adapter_model.safetensors"
  whole = path.read_bytes()
  tensors = safetensors.load_file(path)
  name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A"
  tensors[f"{name}.default.weight"] = tensors[f"{name}.weight"] * 2
  safetensors.save_file(tensors, path)
  with pytest.raises(UserError, match=f"twice {name}.weight"):
    huggingface.load(folder)
  path.write_bytes(whole)


def test_the_revision_of_the_base_is_honoured(plain, tmp_path, monkeypatch):
  import huggingface_hub

  from factshock.data import pretrained_tokenizers

  folder, settings = plain
  base = settings["base_model_name_or_path"]
  asked = []

  def download(name, revision, allow_patterns):
    asked.append((name, revision))
    return base

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  on_hub = settings | {"base_model_name_or_path": "org/name", "revision": "v1.0"}
  (folder / "adapter_config.json").write_text(json.dumps(on_hub))
  assert huggingface.config_of(folder) == huggingface.config_of(base)
  assert ours(folder).shape[-1] == LLAMA.vocab_size
  assert asked == [("org/name", "v1.0")] * 2
  tokenizers = []
  monkeypatch.setattr(
    pretrained_tokenizers, "_read", lambda *given: tokenizers.append(given) or [][0]
  )
  with pytest.raises(IndexError):
    pretrained_tokenizers.load(folder)
  assert tokenizers == [("org/name@v1.0", None)]
  # It is kept in what is written, as PEFT reads it.
  adapters = peft_format.read(folder, LLAMA)
  huggingface.write_adapters(tmp_path / "again", adapters, LLAMA)
  written = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
  assert (written["base_model_name_or_path"], written["revision"]) == ("org/name", "v1.0")


def test_a_base_folder_with_an_at_sign_keeps_its_name(plain, tmp_path):
  folder, settings = plain
  (folder / "adapter_config.json").write_text(json.dumps(settings))
  _, base = cases.base_folder(tmp_path / "a@b", LLAMA)
  adapters = peft_format.read(folder, LLAMA)
  moved = huggingface.Adapters(adapters.tree, adapters.rank, adapters.alpha, base)
  huggingface.write_adapters(tmp_path / "peft", moved, LLAMA)
  assert peft_format.base_of(tmp_path / "peft") == base
