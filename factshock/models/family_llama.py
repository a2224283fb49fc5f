"""Family "llama": Llama, SmolLM, Mistral and other models with their layers."""

from collections.abc import Mapping
from typing import Any

from factshock.models import decoder, decoder_family
from factshock.runtime.errors import UserError

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
# transformers' defaults
_DEFAULTS: dict[str, dict[str, Any]] = {
  "llama": {"max_position_embeddings": 2048},
  "mistral": {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
  },
}


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> decoder.LlamaConfig:
  """Returns the config of a Llama's or Mistral's config.json.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.

  Raises:
    UserError: a variant that is not supported, or a value out of range.
    KeyError: a size is missing.
  """
  decoder_family.check_plain(values, path)
  if len(set(values.get("layer_types") or ())) > 1:
    raise UserError(
      f"{path}: layers of different attention (layer_types) are not supported in a Llama or Mistral"
    )
  model_type = values["model_type"]
  values = {**_DEFAULTS[model_type], **values}
  theta, scaling = decoder_family.rope(values, path)
  return decoder.LlamaConfig(
    **decoder_family.sizes(values, dtype),
    rope_theta=theta,
    rope_scaling=scaling,
    sliding_window=values["sliding_window"] if model_type == "mistral" else None,
  )


def write_config(model_config: decoder.LlamaConfig) -> dict[str, Any]:
  """Returns the config.json of a Llama, or of a Mistral where there is a window; without dtype."""
  model_type = "mistral" if model_config.sliding_window else "llama"
  values = decoder_family.write_sizes(model_config, model_type, _ARCHITECTURES[model_type])
  if model_type == "mistral":
    return values | {"sliding_window": model_config.sliding_window}
  return values | {"attention_bias": False, "mlp_bias": False}


FAMILY = decoder_family.family(
  "llama",
  decoder.LlamaConfig,
  decoder_family.huggingface_format(
    supported="llama, mistral",
    model_types=("llama", "mistral"),
    read_config=read_config,
    write_config=write_config,
  ),
)
