"""Opening a stored model: the dtype that it computes in goes by the device, unless one is named."""

import json

import hf_tokenizers
import jax
import pytest

from factshock.answering import batches
from factshock.checkpoints import loading
from factshock.configs import demo, pretrained
from factshock.models import decoder, families
from factshock.models.formats import huggingface
from factshock.runtime.errors import UserError

CONFIG = decoder.LlamaConfig(
  vocab_size=400, d_model=16, d_ff=24, num_heads=2, num_kv_heads=1, d_kv=8, layers=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A HuggingFace folder whose config.json says bfloat16."""
  path = tmp_path_factory.mktemp("model") / "llama"
  huggingface.save(path, decoder.init(CONFIG, jax.random.key(0)), CONFIG)
  hf_tokenizers.llama_like(path)
  values = json.loads((path / "config.json").read_text())
  values |= {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
  (path / "config.json").write_text(json.dumps(values))
  return str(path)


@pytest.mark.parametrize(
  "platform, expected", [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_auto_is_the_dtype_that_a_device_is_fastest_in(platform, expected):
  section = families.to_section(CONFIG)
  automatic = families.from_section({**section, "dtype": "auto"}, 400, platform)
  named = families.from_section({**section, "dtype": "bfloat16"}, 400, platform)
  assert automatic.dtype == expected and named.dtype == "bfloat16"
  check = families.section_schema("llama")["dtype"]
  assert check.fits("auto") and check.fits("float32") and not check.fits("float16")


def test_a_pretrained_model_computes_in_float32_on_a_cpu(folder, capsys):
  assert huggingface.config_of(folder).dtype == "bfloat16"
  model, _ = loading.open_model(folder)
  assert model.model_config.dtype == "float32"
  assert capsys.readouterr().err.count("computed in float32, as a CPU is faster") == 1


@pytest.mark.parametrize(
  "named, expected", [("auto", "float32"), ("bfloat16", "bfloat16"), ("float32", "float32")]
)
def test_a_config_that_names_a_dtype_counts(folder, named, expected):
  config = pretrained.get_config(folder)
  assert config.model.dtype == "auto"
  config.model.dtype = named
  config.cpu_devices = 0
  model, _ = loading.open_model(folder, config)
  assert model.model_config.dtype == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_is_asked_for_counts_before_a_config(folder, dtype, capsys):
  config = pretrained.get_config(folder)
  config.model.dtype = "float32"
  config.cpu_devices = 0
  for given in (None, config):
    model, _ = loading.open_model(folder, given, dtype=dtype)
    assert model.model_config.dtype == dtype
    placed, _ = batches.place(model)
    assert placed["embedding"].dtype == dtype
  assert "as a CPU is faster" not in capsys.readouterr().err


def test_a_config_of_another_model_is_refused(folder):
  config = demo.get_config()
  config.cpu_devices = 0
  with pytest.raises(UserError, match="than the checkpoint.*\n  family: llama and t5"):
    loading.open_model(folder, config)
