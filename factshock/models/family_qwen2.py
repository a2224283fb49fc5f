"""Family "qwen2": Qwen 2 and 2.5 (Yang et al. 2024, arXiv 2407.10671)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from factshock.models import decoder_family
from factshock.models.decoder_config import MixedConfig, Variant
from factshock.models.model_config import SCALE
from factshock.runtime.settings import WHOLE, setting

# transformers' defaults
_DEFAULTS: dict[str, Any] = {
  "max_position_embeddings": 32768,
  "num_key_value_heads": 32,
  "sliding_window": 4096,
  "max_window_layers": 28,
}


@dataclasses.dataclass(frozen=True)
class Qwen2Config(MixedConfig):
  """Holds the sizes of a Qwen 2: a Llama whose queries, keys and values have biases."""

  epsilon: float = setting(SCALE, default=1e-6)

  @property
  def variant(self) -> Variant:
    """Returns in what the family's layers differ from Llama's."""
    return Variant(qkv_bias=True)


def read_settings(
  values: Mapping[str, Any], path: str, dtype: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the settings that a config.json of Qwen 2 or 3 gives, by name.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.
    defaults: transformers' own for what it lacks.

  Raises:
    UserError: a variant that is not supported, or a value out of range.
    KeyError: a size is missing.
  """
  values = {**defaults, **values}
  window = values["sliding_window"] if values.get("use_sliding_window") else None
  # Without a window none of the layers has one, whatever their number.
  first = values["max_window_layers"] if window else values["num_hidden_layers"]
  types = decoder_family.after(first, values["num_hidden_layers"])
  theta, scaling = decoder_family.rope(values, path)
  return {
    **decoder_family.sizes(values, dtype),
    **decoder_family.windows(values, path, window, types),
    "rope_theta": theta,
    "rope_scaling": scaling,
  }


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> Qwen2Config:
  """Returns the config of a Qwen 2's config.json; see `read_settings`."""
  decoder_family.check_plain(values, path, off=())
  return Qwen2Config(**read_settings(values, path, dtype, _DEFAULTS))


def write_qwen(model_config: MixedConfig, model_type: str, architecture: str) -> dict[str, Any]:
  """Returns the config.json of a Qwen 2 or 3; without dtype."""
  has_window = model_config.sliding_window is not None
  full = len(model_config.global_layers) if has_window else model_config.layers
  return {
    **decoder_family.write_sizes(model_config, model_type, architecture),
    **decoder_family.write_windows(model_config),
    "use_sliding_window": has_window,
    "max_window_layers": full,
  }


def write_config(model_config: Qwen2Config) -> dict[str, Any]:
  """Returns the config.json of a Qwen 2; without dtype."""
  return write_qwen(model_config, "qwen2", "Qwen2ForCausalLM")


SCHEMA = {**decoder_family.SCHEMA, "max_window_layers": WHOLE}

FAMILY = decoder_family.family(
  "qwen2",
  Qwen2Config,
  decoder_family.huggingface_format(
    supported="qwen2",
    model_types=("qwen2",),
    read_config=read_config,
    write_config=write_config,
    schema=SCHEMA,
  ),
)
