"""Family "gemma3": the text models of Gemma 3 (Gemma Team 2025, arXiv 2503.19786)."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from factshock.models import decoder_family
from factshock.models.decoder_config import OPTIONAL, Kind, MixedConfig, Variant
from factshock.models.model_config import SCALE, SIZE
from factshock.runtime import console
from factshock.runtime.errors import UserError
from factshock.runtime.settings import TEXT, Check, known_problems, setting

_TEXT_TYPE = "gemma3_text"
_WHOLE_TYPE = "gemma3"
# transformers' defaults, which published files rely on
_DEFAULTS: dict[str, Any] = {
  "vocab_size": 262208,
  "hidden_size": 2304,
  "intermediate_size": 9216,
  "num_hidden_layers": 26,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 256,
  "max_position_embeddings": 131072,
  "tie_word_embeddings": True,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
  "sliding_window_pattern": 6,
}
_THETA = 1e6
_LOCAL_THETA = 1e4
# Of a config.json with a text_config: what says something of the text model too.
_SHARED = (
  "dtype",
  "torch_dtype",
  "bos_token_id",
  "eos_token_id",
  "pad_token_id",
  "tie_word_embeddings",
)
_VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\..*")
_OFF = ("attention_bias", "use_bidirectional_attention", "attn_logit_softcapping")


@dataclasses.dataclass(frozen=True)
class Gemma3Config(MixedConfig):
  """Holds the sizes of a Gemma 3.

  `rope_theta` and `rope_scaling` are those of `global_layers`.

  Attributes:
    rope_theta_local: base of the wavelengths of positions in the layers with a window.
    query_scalar: queries are scaled by query_scalar ** -0.5.
    logits_softcap: logits s become cap * tanh(s / cap); None leaves them.
  """

  epsilon: float = setting(SCALE, default=1e-6)
  rope_theta_local: float = setting(SCALE, default=_LOCAL_THETA)
  query_scalar: float = setting(SCALE, default=256.0)
  logits_softcap: float | None = setting(OPTIONAL, default=None)

  @property
  def feed_forward(self) -> str:
    """Returns the kind of the feed-forward layers."""
    return "gated-gelu"

  @property
  def variant(self) -> Variant:
    """Returns in what the family's layers differ from Llama's."""
    return Variant(
      qk_norm="head",
      norm_after=True,
      norm_offset=1.0,
      query_scale=self.query_scalar**-0.5,
      embedding_scale=self.d_model**0.5,
      logits_softcap=self.logits_softcap,
    )

  def kind_of(self, layer: int) -> Kind:
    """Returns what the queries of a layer see."""
    kind = super().kind_of(layer)
    return kind if kind.window is None else Kind(kind.window, self.rope_theta_local, None)


def text_json(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the config.json of the text model alone, of one with a text_config."""
  if values.get("model_type") != _WHOLE_TYPE:
    return dict(values)
  shared = {key: values[key] for key in _SHARED if key in values}
  own = {"model_type": _TEXT_TYPE, "architectures": ["Gemma3ForCausalLM"]}
  return {**shared, **(values.get("text_config") or {}), **own}


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> Gemma3Config:
  """Returns the config of a Gemma 3's config.json, of its text model where it reads images too.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.

  Raises:
    UserError: a variant that is not supported, or a value out of range.
  """
  if values["model_type"] == _WHOLE_TYPE:
    console.say_once(f"{path}: a model of texts and images; its vision tower is left out")
    values = text_json(values)
    problems = known_problems(values, _SCHEMA)
    if problems:
      raise UserError(f"{path}: text_config: {'; '.join(problems)}")
  activation = ("hidden_activation", "gelu_pytorch_tanh")
  decoder_family.check_plain(values, path, activation=activation, off=_OFF)
  values = {**_DEFAULTS, **values}
  types = decoder_family.every(values["sliding_window_pattern"], values["num_hidden_layers"])
  theta, scaling, local_theta = _ropes(values, path)
  return Gemma3Config(
    **decoder_family.sizes(values, dtype),
    **decoder_family.windows(values, path, values["sliding_window"], types),
    rope_theta=theta,
    rope_scaling=scaling,
    rope_theta_local=local_theta,
    query_scalar=values["query_pre_attn_scalar"],
    logits_softcap=values.get("final_logit_softcapping"),
  )


def _ropes(values: Mapping[str, Any], path: str) -> tuple[float, tuple[float, ...] | None, float]:
  """Returns base and scaling of the layers that see all tokens, and the base of the others."""
  sections = values.get("rope_parameters") or {}
  if not {*sections} <= {"full_attention", "sliding_attention"}:
    raise UserError(
      f"{path}: rope_parameters: expected full_attention and sliding_attention, got "
      f"{', '.join(map(str, sections)):.80}"
    )
  full = sections.get("full_attention") or values.get("rope_scaling") or {}
  sliding = sections.get("sliding_attention") or {}
  theta, scaling = decoder_family.rope_of(full, path, values.get("rope_theta") or _THETA)
  base = values.get("rope_local_base_freq") or _LOCAL_THETA
  local_theta, local_scaling = decoder_family.rope_of(sliding, path, base)
  if local_scaling:
    raise UserError(f"{path}: a scaling of sliding_attention's positions is not supported")
  return theta, scaling, local_theta


def write_config(model_config: Gemma3Config) -> dict[str, Any]:
  """Returns the config.json of a Gemma 3's text model; without dtype."""
  values = decoder_family.write_sizes(model_config, _TEXT_TYPE, "Gemma3ForCausalLM")
  del values["hidden_act"]
  scaling = decoder_family.rope_section(model_config.rope_scaling)
  return {
    **values,
    **decoder_family.write_windows(model_config),
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": model_config.query_scalar,
    "final_logit_softcapping": model_config.logits_softcap,
    "attn_logit_softcapping": None,
    "attention_bias": False,
    "rope_local_base_freq": model_config.rope_theta_local,
    "rope_parameters": {
      "full_attention": scaling | {"rope_theta": model_config.rope_theta},
      "sliding_attention": {"rope_type": "default", "rope_theta": model_config.rope_theta_local},
    },
  }


def is_unused(name: str) -> bool:
  """Returns whether a tensor is of the vision tower, or is computed from the config."""
  return decoder_family.is_unused(name) or _VISION.fullmatch(name) is not None


_SCHEMA = {
  **decoder_family.SCHEMA,
  "hidden_activation": TEXT,
  "rope_local_base_freq": SCALE,
  "query_pre_attn_scalar": SCALE,
  "final_logit_softcapping": SCALE,
  "sliding_window_pattern": SIZE,
  "text_config": Check((dict,), lambda v: True, "an object"),
}

FAMILY = decoder_family.family(
  "gemma3",
  Gemma3Config,
  decoder_family.huggingface_format(
    supported="gemma3 (its text)",
    model_types=(_TEXT_TYPE, _WHOLE_TYPE),
    read_config=read_config,
    write_config=write_config,
    own_json=text_json,
    prefixes=(
      ("language_model.model.", "model."),
      ("model.language_model.", "model."),
      ("language_model.lm_head.", "lm_head."),
    ),
    is_unused=is_unused,
    schema=_SCHEMA,
  ),
)
