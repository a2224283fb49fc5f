"""Family "qwen3": the dense models of Qwen 3 (Yang et al. 2025, arXiv 2505.09388)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from factshock.models import decoder_family, family_qwen2
from factshock.models.decoder_config import MixedConfig, Variant
from factshock.models.model_config import SCALE
from factshock.runtime.settings import setting

# transformers' defaults
_DEFAULTS: dict[str, Any] = {
  "max_position_embeddings": 32768,
  "num_key_value_heads": 32,
  "head_dim": 128,
  "sliding_window": 4096,
  "max_window_layers": 28,
}


@dataclasses.dataclass(frozen=True)
class Qwen3Config(MixedConfig):
  """Holds the sizes of a Qwen 3: a Llama whose queries and keys are normed head by head."""

  epsilon: float = setting(SCALE, default=1e-6)

  @property
  def variant(self) -> Variant:
    """Returns in what the family's layers differ from Llama's."""
    return Variant(qk_norm="head")


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> Qwen3Config:
  """Returns the config of a Qwen 3's config.json; see family_qwen2.read_settings."""
  decoder_family.check_plain(values, path, off=("attention_bias",))
  return Qwen3Config(**family_qwen2.read_settings(values, path, dtype, _DEFAULTS))


def write_config(model_config: Qwen3Config) -> dict[str, Any]:
  """Returns the config.json of a Qwen 3; without dtype."""
  values = family_qwen2.write_qwen(model_config, "qwen3", "Qwen3ForCausalLM")
  return values | {"attention_bias": False}


FAMILY = decoder_family.family(
  "qwen3",
  Qwen3Config,
  decoder_family.huggingface_format(
    supported="qwen3",
    model_types=("qwen3",),
    read_config=read_config,
    write_config=write_config,
    schema=family_qwen2.SCHEMA,
  ),
)
