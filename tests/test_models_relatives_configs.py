"""config.json of Llama's relatives: as they are published, read as transformers reads them; what is
refused.
"""

import hf_relatives
import jax
import numpy as np
import pytest

from factshock.checkpoints import conversion
from factshock.models import decoder, families, lora
from factshock.models.decoder_config import kinds
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import configs
from factshock.runtime.errors import UserError

GEMMA3_270M = dict(
  architectures=["Gemma3ForCausalLM"],
  _sliding_window_pattern=6,
  attention_bias=False,
  attn_logit_softcapping=None,
  bos_token_id=2,
  eos_token_id=1,
  final_logit_softcapping=None,
  head_dim=256,
  hidden_activation="gelu_pytorch_tanh",
  hidden_size=640,
  intermediate_size=2048,
  layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
  max_position_embeddings=32768,
  model_type="gemma3_text",
  num_attention_heads=4,
  num_hidden_layers=18,
  num_key_value_heads=1,
  query_pre_attn_scalar=256,
  rms_norm_eps=1e-6,
  rope_local_base_freq=10000.0,
  rope_scaling=None,
  rope_theta=1000000.0,
  sliding_window=512,
  torch_dtype="bfloat16",
  use_bidirectional_attention=False,
  vocab_size=262144,
)
# As published: what it leaves out is left to transformers.
GEMMA3_4B = dict(
  architectures=["Gemma3ForConditionalGeneration"],
  eos_token_id=[1, 106],
  image_token_index=262144,
  model_type="gemma3",
  text_config=dict(
    hidden_size=2560,
    intermediate_size=10240,
    model_type="gemma3_text",
    num_hidden_layers=34,
    rope_scaling={"factor": 8.0, "rope_type": "linear"},
    sliding_window=1024,
  ),
  torch_dtype="bfloat16",
  vision_config={"hidden_size": 1152, "model_type": "siglip_vision_model"},
)
GEMMA2_2B = dict(
  architectures=["Gemma2ForCausalLM"],
  attn_logit_softcapping=50.0,
  final_logit_softcapping=30.0,
  head_dim=256,
  hidden_act="gelu_pytorch_tanh",
  hidden_activation="gelu_pytorch_tanh",
  hidden_size=2304,
  intermediate_size=9216,
  max_position_embeddings=8192,
  model_type="gemma2",
  num_attention_heads=8,
  num_hidden_layers=26,
  num_key_value_heads=4,
  query_pre_attn_scalar=256,
  rms_norm_eps=1e-6,
  rope_theta=10000.0,
  sliding_window=4096,
  vocab_size=256000,
)
QWEN2 = dict(
  architectures=["Qwen2ForCausalLM"],
  hidden_act="silu",
  hidden_size=896,
  intermediate_size=4864,
  max_position_embeddings=32768,
  max_window_layers=24,
  model_type="qwen2",
  num_attention_heads=14,
  num_hidden_layers=24,
  num_key_value_heads=2,
  rms_norm_eps=1e-6,
  rope_theta=1000000.0,
  sliding_window=32768,
  tie_word_embeddings=True,
  use_sliding_window=False,
  vocab_size=151936,
)
QWEN3 = dict(
  QWEN2,
  architectures=["Qwen3ForCausalLM"],
  model_type="qwen3",
  attention_bias=False,
  head_dim=128,
  hidden_size=1024,
  intermediate_size=3072,
  max_window_layers=28,
  num_attention_heads=16,
  num_hidden_layers=28,
  num_key_value_heads=8,
  rope_scaling=None,
  sliding_window=None,
)
OLMO2 = dict(
  architectures=["Olmo2ForCausalLM"],
  attention_bias=False,
  hidden_act="silu",
  hidden_size=2048,
  intermediate_size=8192,
  max_position_embeddings=4096,
  model_type="olmo2",
  num_attention_heads=16,
  num_hidden_layers=16,
  num_key_value_heads=16,
  rms_norm_eps=1e-6,
  rope_scaling=None,
  rope_theta=500000,
  tie_word_embeddings=False,
  vocab_size=100352,
)
SMOLLM3 = dict(
  architectures=["SmolLM3ForCausalLM"],
  attention_bias=False,
  hidden_act="silu",
  hidden_size=2048,
  intermediate_size=11008,
  layer_types=["full_attention"] * 36,
  max_position_embeddings=65536,
  max_window_layers=28,
  mlp_bias=False,
  model_type="smollm3",
  no_rope_layer_interval=4,
  no_rope_layers=[1, 1, 1, 0] * 9,
  num_attention_heads=16,
  num_hidden_layers=36,
  num_key_value_heads=4,
  rms_norm_eps=1e-6,
  rope_scaling=None,
  rope_theta=5000000.0,
  sliding_window=None,
  use_sliding_window=False,
  vocab_size=128256,
)
PUBLISHED = {
  "gemma3 270m": GEMMA3_270M,
  "gemma3 4b": GEMMA3_4B,
  "gemma2 2b": GEMMA2_2B,
  "qwen2.5 0.5b": QWEN2,
  "qwen2.5 with windows": dict(QWEN2, use_sliding_window=True, max_window_layers=20),
  "qwen3 0.6b": QWEN3,
  "olmo2 1b": OLMO2,
  "smollm3 3b": SMOLLM3,
}
SIZES = {
  "vocab_size": "vocab_size",
  "d_model": "hidden_size",
  "d_ff": "intermediate_size",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "layers": "num_hidden_layers",
  "max_length": "max_position_embeddings",
  "epsilon": "rms_norm_eps",
  "tie_head": "tie_word_embeddings",
  "query_scalar": "query_pre_attn_scalar",
  "attention_softcap": "attn_logit_softcapping",
  "logits_softcap": "final_logit_softcapping",
}


def theirs(values):
  """transformers' own reading of a config.json, of the text model alone."""
  import transformers

  values = {key: value for key, value in values.items() if key != "vision_config"}
  read = transformers.AutoConfig.for_model(**values)
  return getattr(read, "text_config", None) or read


def facts_of(read):
  """What a config of transformers says of sizes and of each layer."""
  sizes = {ours: getattr(read, name) for ours, name in SIZES.items() if hasattr(read, name)}
  types = getattr(read, "layer_types", None) or ["full_attention"] * read.num_hidden_layers
  ropes = read.rope_parameters
  layers = []
  for layer, kind in enumerate(types):
    rope = ropes.get(kind, ropes)
    has_rope = getattr(read, "no_rope_layers", None) or [1] * len(types)
    window = read.sliding_window if kind == "sliding_attention" else None
    scaling = (rope["factor"],) if rope["rope_type"] == "linear" else None
    positions = (rope["rope_theta"], scaling) if has_rope[layer] else (None, None)
    layers.append((window, *positions))
  return sizes, layers


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_as_by_transformers(name):
  pytest.importorskip("transformers")
  ours = configs.from_json(PUBLISHED[name], name)
  assert families.of(ours).name == name.split()[0].split(".")[0]
  sizes, layers = facts_of(theirs(PUBLISHED[name]))
  assert {key: getattr(ours, key) for key in sizes if hasattr(ours, key)} == {
    key: value for key, value in sizes.items() if hasattr(ours, key)
  }
  assert [tuple(ours.kind_of(layer)) for layer in range(ours.layers)] == layers
  for base in (None, PUBLISHED[name]):  # written anew, and carried along
    written = configs.to_json(ours, "float32", base)
    assert configs.from_json(written, name, ours.dtype) == ours
    assert facts_of(theirs(written)) == (sizes, layers)
    assert written["architectures"][0].endswith("ForCausalLM")


def test_what_the_papers_say_of_the_layers():
  gemma = configs.from_json(GEMMA3_270M, "x")
  assert gemma.global_layers == (5, 11, 17) and gemma.dtype == "bfloat16"
  assert [kind.theta for kind in kinds(gemma)[0]] == [1e4, 1e6]
  assert configs.from_json(GEMMA3_4B, "x").global_layers == (5, 11, 17, 23, 29)
  assert configs.from_json(GEMMA2_2B, "x").global_layers == tuple(range(1, 26, 2))
  assert configs.from_json(SMOLLM3, "x").no_rope_layers == tuple(range(3, 36, 4))
  assert configs.from_json(QWEN2, "x").reach is None
  assert gemma.reach is None
  windows = configs.from_json(dict(GEMMA3_270M, layer_types=["sliding_attention"] * 18), "x")
  assert windows.reach == 512


@pytest.mark.parametrize(
  "base, changes, words",
  [
    (GEMMA3_270M, dict(attn_logit_softcapping=50.0), "attn_logit_softcapping is not supported"),
    (GEMMA3_270M, dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
    (GEMMA3_270M, dict(hidden_activation="gelu"), "'gelu' is not supported; supported is gelu_py"),
    (GEMMA3_270M, dict(sliding_window=None), "there is no sliding_window in use"),
    (GEMMA3_270M, dict(layer_types=["full_attention"]), "for each of 18 layers"),
    (GEMMA3_270M, dict(layer_types=["chunked_attention"] * 18), "chunked_attention"),
    (GEMMA3_270M, dict(rope_parameters={"rope_type": "default"}), "expected full_attention and"),
    (GEMMA3_270M, dict(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "'yarn'"),
    (GEMMA3_270M, dict(rope_scaling={"rope_type": "linear"}), "'factor'"),
    (
      GEMMA3_270M,
      dict(rope_parameters={"sliding_attention": {"rope_type": "linear", "factor": 2.0}}),
      "a scaling of sliding_attention",
    ),
    (GEMMA3_4B, dict(text_config={"hidden_size": "wide"}), "text_config: hidden_size"),
    (GEMMA3_4B, dict(text_config=[1]), "text_config: expected an object"),
    (GEMMA2_2B, dict(final_logit_softcapping=-1), "final_logit_softcapping"),
    (QWEN3, dict(attention_bias=True), "attention_bias is not supported"),
    (QWEN2, dict(hidden_act="gelu"), "hidden_act"),
    (QWEN2, dict(layer_types=["sliding_attention"] * 24), "no sliding_window in use"),
    (OLMO2, dict(attention_bias=True), "attention_bias"),
    (SMOLLM3, dict(no_rope_layers=[1]), "for each of 36 layers, got 1"),
    (SMOLLM3, dict(mlp_bias=True), "mlp_bias"),
    (OLMO2, dict(model_type="olmo3"), "'olmo3' is not supported; supported are gemma2, gemma3"),
  ],
)
def test_what_cannot_be_honoured_is_refused_by_name(base, changes, words):
  with pytest.raises(UserError, match=words):
    configs.from_json({**base, **changes}, "config.json")


@pytest.mark.parametrize(
  "name, values, words",
  [
    ("gemma3", dict(global_layers=(0,)), "expected a sliding_window"),
    ("gemma3", dict(global_layers=(2,), sliding_window=4), "different layers from 0 to 1"),
    ("gemma2", dict(attention_softcap=0.0), "attention_softcap: expected None or a finite number"),
    ("smollm3", dict(no_rope_layers=(1, 1)), "no_rope_layers: expected different layers"),
    ("olmo2", dict(sliding_window=4), "OLMo 2 has no windows"),
    ("llama", dict(global_layers=(0,)), "config.model.global_layers is unknown"),
  ],
)
def test_settings_that_a_family_cannot_have(name, values, words):
  sizes = dict(d_model=16, d_ff=24, num_heads=4, num_kv_heads=2, d_kv=8, layers=2)
  with pytest.raises(UserError, match=words):
    families.from_section({"family": name, **sizes, **values}, 40)


def test_the_text_of_a_model_of_texts_and_images_is_read_and_said(tmp_path, capsys):
  import torch
  import transformers

  vision = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
  )
  text = hf_relatives.their_config("gemma3").to_dict()
  config = transformers.Gemma3Config(
    text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=59
  )
  torch.manual_seed(0)
  model = transformers.Gemma3ForConditionalGeneration(config).eval()
  model.save_pretrained(tmp_path / "whole")
  params, ours = huggingface.load(tmp_path / "whole")
  said = capsys.readouterr()
  assert "its vision tower is left out" in said.err + said.out
  tokens = np.random.default_rng(0).integers(3, 50, (2, 9)).astype(np.int32)
  with torch.no_grad():
    expected = model(input_ids=torch.tensor(tokens).long()).logits.numpy()
  got = np.asarray(decoder.forward(params, ours, tokens))
  assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()

  base = huggingface.read_json(tmp_path / "whole")
  huggingface.save(tmp_path / "text", params, ours, base_config=base)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "text")
  assert type(theirs).__name__ == "Gemma3ForCausalLM"
  again, _ = huggingface.load(tmp_path / "text")
  jax.tree.map(np.testing.assert_array_equal, again, params)

  fresh = lora.init(params, jax.random.key(1), 2, ["query"])
  adapters = huggingface.Adapters(jax.tree.map(np.asarray, fresh), 2, 2.0, str(tmp_path / "whole"))
  huggingface.write_adapters(tmp_path / "adapters", adapters, ours)
  with pytest.raises(UserError, match="reads images too, and PEFT names the weights"):
    conversion.convert(tmp_path / "adapters", tmp_path / "peft", "peft")
