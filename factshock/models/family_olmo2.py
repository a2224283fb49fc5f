"""Family "olmo2": OLMo 2 (OLMo Team 2024, arXiv 2501.00656)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from factshock.models import decoder_family
from factshock.models.decoder_config import LlamaConfig, Variant
from factshock.runtime.errors import UserError

# transformers' defaults
_DEFAULTS: dict[str, Any] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}


@dataclasses.dataclass(frozen=True)
class Olmo2Config(LlamaConfig):
  """Holds the sizes of an OLMo 2: a Llama that norms what attention and feed-forward make.

  What they read is not normed; queries and keys are, all heads of a token together.

  Raises:
    UserError: a value out of range, or a sliding_window, which the family does not have.
  """

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.sliding_window is not None:
      raise UserError(
        f"model.sliding_window: expected None, as OLMo 2 has no windows, got {self.sliding_window}"
      )

  @property
  def variant(self) -> Variant:
    """Returns in what the family's layers differ from Llama's."""
    return Variant(qk_norm="whole", norm_before=False, norm_after=True, norm_offset=0.0)


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> Olmo2Config:
  """Returns the config of an OLMo 2's config.json.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.

  Raises:
    UserError: a variant that is not supported, or a value out of range.
    KeyError: a size is missing.
  """
  decoder_family.check_plain(values, path, off=("attention_bias",))
  values = {**_DEFAULTS, **values}
  theta, scaling = decoder_family.rope(values, path)
  return Olmo2Config(**decoder_family.sizes(values, dtype), rope_theta=theta, rope_scaling=scaling)


def write_config(model_config: Olmo2Config) -> dict[str, Any]:
  """Returns the config.json of an OLMo 2; without dtype."""
  values = decoder_family.write_sizes(model_config, "olmo2", "Olmo2ForCausalLM")
  return values | {"attention_bias": False}


FAMILY = decoder_family.family(
  "olmo2",
  Olmo2Config,
  decoder_family.huggingface_format(
    supported="olmo2",
    model_types=("olmo2",),
    read_config=read_config,
    write_config=write_config,
  ),
)
