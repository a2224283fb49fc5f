"""Family "smollm3": SmolLM3, a Llama some of whose layers know no positions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from factshock.models import decoder_family
from factshock.models.decoder_config import LAYERS, Kind, MixedConfig, check_layers
from factshock.models.model_config import SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import WHOLE, setting, tuple_of

# transformers' defaults
_DEFAULTS: dict[str, Any] = {
  "max_position_embeddings": 32768,
  "num_key_value_heads": 4,
  "tie_word_embeddings": True,
  "no_rope_layer_interval": 4,
}
_THETA = 2e6
_PAD_ID = 128004


@dataclasses.dataclass(frozen=True)
class SmolLM3Config(MixedConfig):
  """Holds the sizes of a SmolLM3.

  Source: Yang et al. 2025, arXiv 2501.18795 (NoPE in some layers).

  Attributes:
    no_rope_layers: indices of the layers without positions, from 0.
  """

  epsilon: float = setting(SCALE, default=1e-6)
  rope_theta: float = setting(SCALE, default=_THETA)
  no_rope_layers: tuple[int, ...] = setting(LAYERS, default=())

  def __post_init__(self) -> None:
    super().__post_init__()
    check_layers(self, "no_rope_layers")

  def kind_of(self, layer: int) -> Kind:
    """Returns what the queries of a layer see."""
    kind = super().kind_of(layer)
    return kind._replace(theta=None, scaling=None) if layer in self.no_rope_layers else kind


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> SmolLM3Config:
  """Returns the config of a SmolLM3's config.json.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.

  Raises:
    UserError: a variant that is not supported, or a value out of range.
    KeyError: a size is missing.
  """
  decoder_family.check_plain(values, path)
  values = {**_DEFAULTS, **values}
  depth = values["num_hidden_layers"]
  with_rope = values.get("no_rope_layers")  # 0 for a layer without positions
  if with_rope is None:
    interval = values["no_rope_layer_interval"]
    with_rope = [int((layer + 1) % interval != 0) for layer in range(depth)]
  if len(with_rope) != depth:
    raise UserError(
      f"{path}: no_rope_layers: expected 0 or 1 for each of {depth} layers, got {len(with_rope)}"
    )
  window = values.get("sliding_window") if values.get("use_sliding_window") else None
  types = [
    "sliding_attention" if window and not has_rope else "full_attention" for has_rope in with_rope
  ]
  theta, scaling = decoder_family.rope(values, path, _THETA)
  return SmolLM3Config(
    **decoder_family.sizes(values, dtype),
    **decoder_family.windows(values, path, window, types),
    rope_theta=theta,
    rope_scaling=scaling,
    no_rope_layers=tuple(layer for layer, has_rope in enumerate(with_rope) if not has_rope),
  )


def write_config(model_config: SmolLM3Config) -> dict[str, Any]:
  """Returns the config.json of a SmolLM3; without dtype."""
  without = model_config.no_rope_layers
  # transformers' own padding is no token of a smaller vocabulary, and it refuses one that is none.
  padding = {} if model_config.vocab_size > _PAD_ID else {"pad_token_id": None}
  return {
    **padding,
    **decoder_family.write_sizes(model_config, "smollm3", "SmolLM3ForCausalLM"),
    **decoder_family.write_windows(model_config),
    "use_sliding_window": model_config.sliding_window is not None,
    "no_rope_layers": [int(layer not in without) for layer in range(model_config.layers)],
    "attention_bias": False,
    "mlp_bias": False,
  }


_SCHEMA = {
  **decoder_family.SCHEMA,
  "no_rope_layers": tuple_of(WHOLE),
  "no_rope_layer_interval": SIZE,
}

FAMILY = decoder_family.family(
  "smollm3",
  SmolLM3Config,
  decoder_family.huggingface_format(
    supported="smollm3",
    model_types=("smollm3",),
    read_config=read_config,
    write_config=write_config,
    kept_keys=("max_position_embeddings", "pad_token_id"),
    schema=_SCHEMA,
  ),
)
