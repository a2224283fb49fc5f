"""config.json of HuggingFace models as our configs and back, in the forms of transformers 4 and 5."""

import json
import os

from factshock.models import decoder, families, t5
from factshock.runtime import files
from factshock.runtime.errors import UserError

SUPPORTED = "t5 (v1.0, v1.1, LM-adapted, flan), llama, mistral"
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_json(folder):
  """config.json of a folder as a dict.

  Raises:
    UserError: no such file, or no JSON object in it.
  """
  path = os.path.join(str(folder), "config.json")
  if not os.path.exists(path):
    raise UserError(
      f"{folder}: expected a model with a config.json, got none there; give the folder that "
      "transformers saved"
    )
  try:
    found = json.loads("\n".join(line for _, line in files.lines(path)))
  except json.JSONDecodeError as error:
    raise UserError(f"{path}: expected JSON, got a broken file ({error}); copy it again") from error
  if not isinstance(found, dict):
    raise UserError(f"{path}: expected a JSON object, got {type(found).__name__}")
  return found


def from_json(found, where, dtype=None):
  """The T5Config or LlamaConfig of a config.json.

  Args:
    found: the dict.
    where: what errors name.
    dtype: of the computation; None takes the file's own (float16 becomes bfloat16), float32 where it has none.

  Raises:
    UserError: another architecture, or a variant that is not supported; says what is.
  """
  kind = found.get("model_type")
  readers = {"t5": _t5, "llama": _llama, "mistral": _llama}
  if kind not in readers:
    raise UserError(f"{where}: model_type {kind!r} is not supported; supported are {SUPPORTED}")
  if found.get("quantization_config"):
    raise UserError(
      f"{where}: quantized weights are not supported; use the model in float32 or bfloat16"
    )
  try:
    return readers[kind](found, where, dtype or _dtype(found))
  except KeyError as error:
    raise UserError(f"{where}: expected a value for {error.args[0]!r}, got none") from error
  except UserError as error:
    raise error if str(error).startswith(str(where)) else UserError(f"{where}: {error}") from error


def to_json(config, dtype, base=None):
  """config.json for a config, as transformers 4 and 5 and vLLM read it.

  Args:
    config: T5Config or LlamaConfig.
    dtype: name of the stored dtype.
    base: the config.json that the model came with; what we do not know of (token ids, say) is kept.

  Raises:
    UserError: `base` is of a model of other sizes; names each.
  """
  made = (_t5_json if isinstance(config, t5.T5Config) else _llama_json)(config)
  made |= {"dtype": dtype, "torch_dtype": dtype}
  if base is None:
    return made
  lines = families.differences(config, from_json(base, "the config.json carried along"))
  if lines:
    raise UserError(f"the config.json carried along is of another model: {'; '.join(lines)}")
  own = {"model_type", "architectures", "dropout_rate"}
  own |= set() if isinstance(config, t5.T5Config) else {"max_position_embeddings"}
  return base | {key: value for key, value in made.items() if key not in own or key not in base}


def _dtype(found):
  name = str(found.get("dtype") or found.get("torch_dtype") or "float32").removeprefix("torch.")
  return "bfloat16" if name in ("bfloat16", "float16") else "float32"


def _t5(found, where, dtype):
  feed_forward = found.get("feed_forward_proj", "relu")
  if feed_forward not in t5.FEED_FORWARDS:
    raise UserError(
      f"{where}: feed_forward_proj {feed_forward!r} is not supported; supported are "
      f"{', '.join(t5.FEED_FORWARDS)}"
    )
  # transformers 5 writes tie_word_embeddings true whatever was said, and keeps what was meant in the other
  tied = found.get("scale_decoder_outputs", found.get("tie_word_embeddings") is not False)
  depth = found["num_layers"]
  return t5.T5Config(
    vocab_size=found["vocab_size"],
    d_model=found["d_model"],
    d_ff=found["d_ff"],
    num_heads=found["num_heads"],
    d_kv=found["d_kv"],
    encoder_layers=depth,
    decoder_layers=found.get("num_decoder_layers") or depth,
    relative_buckets=found.get("relative_attention_num_buckets", 32),
    relative_max_distance=found.get("relative_attention_max_distance", 128),
    feed_forward=feed_forward,
    tie_head=bool(tied),
    dropout=found.get("dropout_rate", 0.1),
    dtype=dtype,
    epsilon=found.get("layer_norm_epsilon", 1e-6),
  )


def _t5_json(config):
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": config.vocab_size,
    "d_model": config.d_model,
    "d_ff": config.d_ff,
    "num_heads": config.num_heads,
    "d_kv": config.d_kv,
    "num_layers": config.encoder_layers,
    "num_decoder_layers": config.decoder_layers,
    "relative_attention_num_buckets": config.relative_buckets,
    "relative_attention_max_distance": config.relative_max_distance,
    "feed_forward_proj": config.feed_forward,
    "dropout_rate": config.dropout,
    "layer_norm_epsilon": config.epsilon,
    "tie_word_embeddings": config.tie_head,
    "scale_decoder_outputs": config.tie_head,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }


def _llama(found, where, dtype):

  kind = found["model_type"]
  heads = found["num_attention_heads"]
  for key in ("attention_bias", "mlp_bias"):
    if found.get(key):
      raise UserError(f"{where}: {key} is not supported; supported are models without biases")
  if found.get("hidden_act", "silu") != "silu":
    raise UserError(
      f"{where}: hidden_act {found['hidden_act']!r} is not supported; supported is silu"
    )
  if len(set(found.get("layer_types") or ())) > 1:
    raise UserError(f"{where}: layers of different attention (layer_types) are not supported")
  theta, scaling = _rope(found, where)
  default = {"llama": (heads, None), "mistral": (8, 4096)}[kind]
  window = found.get("sliding_window", default[1]) if kind == "mistral" else None
  return decoder.LlamaConfig(
    vocab_size=found["vocab_size"],
    d_model=found["hidden_size"],
    d_ff=found["intermediate_size"],
    num_heads=heads,
    num_kv_heads=found.get("num_key_value_heads", default[0]) or heads,
    d_kv=found.get("head_dim") or found["hidden_size"] // heads,
    layers=found["num_hidden_layers"],
    rope_theta=theta,
    rope_scaling=scaling,
    sliding_window=window,
    max_length=found.get("max_position_embeddings", {"llama": 2048, "mistral": 131072}[kind]),
    tie_head=bool(found.get("tie_word_embeddings", False)),
    dtype=dtype,
    epsilon=found.get("rms_norm_eps", 1e-6),
  )


def _rope(found, where):
  """(theta, Llama-3's four numbers or None): `rope_parameters` of transformers 5, else the older two keys."""
  rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
  theta = rope.get("rope_theta") or found.get("rope_theta") or 10000.0
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in ("default", "llama3") or rope.get("partial_rotary_factor", 1.0) != 1.0:
    raise UserError(
      f"{where}: rope type {kind!r} is not supported; supported are default and llama3, over "
      "whole heads"
    )
  return float(theta), tuple(rope[key] for key in _LLAMA3) if kind == "llama3" else None


def _llama_json(config):
  kind = "mistral" if config.sliding_window else "llama"
  rope = {"rope_type": "default"}
  if config.rope_scaling:
    rope = {"rope_type": "llama3", **dict(zip(_LLAMA3, config.rope_scaling))}
  return {
    "architectures": [{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}[kind]],
    "model_type": kind,
    "vocab_size": config.vocab_size,
    "hidden_size": config.d_model,
    "intermediate_size": config.d_ff,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.d_kv,
    "num_hidden_layers": config.layers,
    "hidden_act": "silu",
    "max_position_embeddings": config.max_length,
    "rms_norm_eps": config.epsilon,
    "tie_word_embeddings": config.tie_head,
    "rope_theta": config.rope_theta,
    "rope_scaling": rope if config.rope_scaling else None,
    "rope_parameters": rope | {"rope_theta": config.rope_theta},
    **(
      {"sliding_window": config.sliding_window}
      if kind == "mistral"
      else {"attention_bias": False, "mlp_bias": False}
    ),
  }
