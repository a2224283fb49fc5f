"""Family "gemma2": Gemma 2 (Gemma Team 2024, arXiv 2408.00118)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from factshock.models import decoder_family
from factshock.models.decoder_config import OPTIONAL, MixedConfig, Variant
from factshock.models.model_config import SCALE
from factshock.runtime.settings import TEXT, setting

# transformers' defaults, which published files rely on
_DEFAULTS: dict[str, Any] = {
  "vocab_size": 256000,
  "hidden_size": 2304,
  "intermediate_size": 9216,
  "num_hidden_layers": 26,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 256,
  "max_position_embeddings": 8192,
  "tie_word_embeddings": True,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
  "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
}
_OFF = ("attention_bias", "use_bidirectional_attention")


@dataclasses.dataclass(frozen=True)
class Gemma2Config(MixedConfig):
  """Holds the sizes of a Gemma 2.

  Attributes:
    query_scalar: queries are scaled by query_scalar ** -0.5.
    attention_softcap: scores s become cap * tanh(s / cap); None leaves them.
    logits_softcap: likewise of logits.
  """

  epsilon: float = setting(SCALE, default=1e-6)
  query_scalar: float = setting(SCALE, default=256.0)
  attention_softcap: float | None = setting(OPTIONAL, default=50.0)
  logits_softcap: float | None = setting(OPTIONAL, default=30.0)

  @property
  def feed_forward(self) -> str:
    """Returns the kind of the feed-forward layers."""
    return "gated-gelu"

  @property
  def variant(self) -> Variant:
    """Returns in what the family's layers differ from Llama's."""
    return Variant(
      norm_after=True,
      norm_offset=1.0,
      query_scale=self.query_scalar**-0.5,
      embedding_scale=self.d_model**0.5,
      attention_softcap=self.attention_softcap,
      logits_softcap=self.logits_softcap,
    )


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> Gemma2Config:
  """Returns the config of a Gemma 2's config.json.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.

  Raises:
    UserError: a variant that is not supported, or a value out of range.
  """
  activation = ("hidden_activation", "gelu_pytorch_tanh")
  decoder_family.check_plain(values, path, activation=activation, off=_OFF)
  values = {**_DEFAULTS, **values}
  types = decoder_family.every(2, values["num_hidden_layers"])
  theta, scaling = decoder_family.rope(values, path)
  return Gemma2Config(
    **decoder_family.sizes(values, dtype),
    **decoder_family.windows(values, path, values["sliding_window"], types),
    rope_theta=theta,
    rope_scaling=scaling,
    query_scalar=values["query_pre_attn_scalar"],
    attention_softcap=values["attn_logit_softcapping"],
    logits_softcap=values["final_logit_softcapping"],
  )


def write_config(model_config: Gemma2Config) -> dict[str, Any]:
  """Returns the config.json of a Gemma 2; without dtype."""
  return {
    **decoder_family.write_sizes(model_config, "gemma2", "Gemma2ForCausalLM"),
    **decoder_family.write_windows(model_config),
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": model_config.query_scalar,
    "attn_logit_softcapping": model_config.attention_softcap,
    "final_logit_softcapping": model_config.logits_softcap,
    "attention_bias": False,
  }


_SCHEMA = {
  **decoder_family.SCHEMA,
  "hidden_activation": TEXT,
  "query_pre_attn_scalar": SCALE,
  "attn_logit_softcapping": SCALE,
  "final_logit_softcapping": SCALE,
}

FAMILY = decoder_family.family(
  "gemma2",
  Gemma2Config,
  decoder_family.huggingface_format(
    supported="gemma2",
    model_types=("gemma2",),
    read_config=read_config,
    write_config=write_config,
    schema=_SCHEMA,
  ),
)
