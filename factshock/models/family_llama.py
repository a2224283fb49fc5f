"""Family "llama": Llama, Mistral and other models with their layers."""

import re
from collections.abc import Mapping
from typing import Any

import jax

from factshock.models import decoder
from factshock.models.families import Family
from factshock.models.formats.tensors import HuggingFaceFormat, LayerTensor, Tensor, stacked
from factshock.models.model_config import DEPTH, SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import FLAG, TEXT, Check, known_problems, tuple_of
from factshock.types import Batch, Params

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
_MAX_LENGTHS = {"llama": 2048, "mistral": 131072}  # transformers' defaults
_MISTRAL_KV_HEADS = 8  # transformers' default, as is the window
_MISTRAL_WINDOW = 4096
_SECTION = Check((dict,), lambda v: True, "an object")
_ROPE_SCHEMA = {
  **dict.fromkeys((*_LLAMA3, "rope_theta", "partial_rotary_factor"), SCALE),
  "rope_type": TEXT,
  "type": TEXT,
}
_ROTARY_FREQUENCIES = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def hidden(
  params: Params, model_config: decoder.LlamaConfig, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
  """Returns what `decoder.head` makes logits of, for each token of a batch: [B, S, D].

  Args:
    params: as from `decoder.init`.
    model_config: the model's sizes.
    batch: `tokens` [B, S]; of packed rows `segments` too.
    key: not read, as Llama has no dropout.
  """
  return decoder.hidden(params, model_config, batch["tokens"], segments_BxS=batch.get("segments"))


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
  _check_supported(values, path)
  model_type = values["model_type"]
  heads = values["num_attention_heads"]
  kv_heads = heads
  window = None
  if model_type == "mistral":
    kv_heads = _MISTRAL_KV_HEADS
    window = values.get("sliding_window", _MISTRAL_WINDOW)
  theta, scaling = _rope(values, path)
  return decoder.LlamaConfig(
    vocab_size=values["vocab_size"],
    d_model=values["hidden_size"],
    d_ff=values["intermediate_size"],
    num_heads=heads,
    num_kv_heads=values.get("num_key_value_heads", kv_heads) or heads,
    d_kv=values.get("head_dim") or values["hidden_size"] // heads,
    layers=values["num_hidden_layers"],
    rope_theta=theta,
    rope_scaling=scaling,
    sliding_window=window,
    max_length=values.get("max_position_embeddings", _MAX_LENGTHS[model_type]),
    tie_head=bool(values.get("tie_word_embeddings", False)),
    dtype=dtype,
    epsilon=values.get("rms_norm_eps", 1e-6),
  )


def write_config(model_config: decoder.LlamaConfig) -> dict[str, Any]:
  """Returns the config.json of a Llama, or of a Mistral where there is a window; without dtype."""
  model_type = "mistral" if model_config.sliding_window else "llama"
  rope: dict[str, Any] = {"rope_type": "default"}
  if model_config.rope_scaling:
    rope = {"rope_type": "llama3", **dict(zip(_LLAMA3, model_config.rope_scaling))}
  values = {
    "architectures": [_ARCHITECTURES[model_type]],
    "model_type": model_type,
    "vocab_size": model_config.vocab_size,
    "hidden_size": model_config.d_model,
    "intermediate_size": model_config.d_ff,
    "num_attention_heads": model_config.num_heads,
    "num_key_value_heads": model_config.num_kv_heads,
    "head_dim": model_config.d_kv,
    "num_hidden_layers": model_config.layers,
    "hidden_act": "silu",
    "max_position_embeddings": model_config.max_length,
    "rms_norm_eps": model_config.epsilon,
    "tie_word_embeddings": model_config.tie_head,
    "rope_theta": model_config.rope_theta,
    "rope_scaling": rope if model_config.rope_scaling else None,
    "rope_parameters": rope | {"rope_theta": model_config.rope_theta},
  }
  if model_type == "mistral":
    return values | {"sliding_window": model_config.sliding_window}
  return values | {"attention_bias": False, "mlp_bias": False}


def tensors(model_config: decoder.LlamaConfig) -> list[Tensor]:
  """Returns every tensor of a Llama's file, ordered by leaf, then layer."""
  d_model = model_config.d_model
  d_ff = model_config.d_ff
  queries = model_config.num_heads * model_config.d_kv
  keys = model_config.num_kv_heads * model_config.d_kv
  vocabulary = (model_config.vocab_size, d_model)
  listed = [Tensor("model.embed_tokens.weight", "embedding", None, False, vocabulary)]
  if not model_config.tie_head:
    listed.append(Tensor("lm_head.weight", "head", None, False, vocabulary))
  listed.append(Tensor("model.norm.weight", "final_norm/scale", None, False, (d_model,)))
  in_layer = [
    LayerTensor("self_attention_norm/scale", "input_layernorm", (d_model,)),
    LayerTensor("self_attention/query", "self_attn.q_proj", (queries, d_model)),
    LayerTensor("self_attention/key", "self_attn.k_proj", (keys, d_model)),
    LayerTensor("self_attention/value", "self_attn.v_proj", (keys, d_model)),
    LayerTensor("self_attention/out", "self_attn.o_proj", (d_model, queries)),
    LayerTensor("feed_forward_norm/scale", "post_attention_layernorm", (d_model,)),
    LayerTensor("feed_forward/gate", "mlp.gate_proj", (d_ff, d_model)),
    LayerTensor("feed_forward/up", "mlp.up_proj", (d_ff, d_model)),
    LayerTensor("feed_forward/down", "mlp.down_proj", (d_model, d_ff)),
  ]
  return listed + stacked(in_layer, model_config.layers, "layers", "model.layers")


def copies(model_config: decoder.LlamaConfig) -> dict[str, str]:
  """Returns the tensors that may repeat another one, by name: a tied head repeats the embedding."""
  return {"lm_head.weight": "model.embed_tokens.weight"} if model_config.tie_head else {}


def is_unused(name: str) -> bool:
  """Returns whether a tensor holds rotary frequencies, which are computed from the config."""
  return _ROTARY_FREQUENCIES.fullmatch(name) is not None


def _check_supported(values: Mapping[str, Any], path: str) -> None:
  """Raises a UserError where a config.json asks for a variant that is not supported."""
  for key in ("attention_bias", "mlp_bias"):
    if values.get(key):
      raise UserError(f"{path}: {key} is not supported; supported are models without biases")
  activation = values.get("hidden_act", "silu")
  if activation != "silu":
    raise UserError(f"{path}: hidden_act {activation!r} is not supported; supported is silu")
  if len(set(values.get("layer_types") or ())) > 1:
    raise UserError(f"{path}: layers of different attention (layer_types) are not supported")


def _rope(values: Mapping[str, Any], path: str) -> tuple[float, tuple[float, ...] | None]:
  """Returns the base of the wavelengths, and Llama 3's four numbers or None.

  They stand in `rope_parameters` of transformers 5, else in the older two keys.
  """
  rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
  theta = rope.get("rope_theta") or values.get("rope_theta") or 10000.0
  rope_type = rope.get("rope_type", rope.get("type", "default"))
  problems = known_problems(rope, _ROPE_SCHEMA)
  if problems:
    raise UserError(f"{path}: rope_parameters: {'; '.join(problems)}")
  whole_heads = rope.get("partial_rotary_factor", 1.0) == 1.0
  if rope_type not in ("default", "llama3") or not whole_heads:
    raise UserError(
      f"{path}: rope type {rope_type!r} is not supported; supported are default and llama3, over "
      "whole heads"
    )
  if rope_type == "default":
    return float(theta), None
  return float(theta), tuple(rope[key] for key in _LLAMA3)


_SCHEMA = {
  **dict.fromkeys(
    (
      "vocab_size",
      "hidden_size",
      "intermediate_size",
      "num_attention_heads",
      "num_key_value_heads",
      "head_dim",
      "sliding_window",
      "max_position_embeddings",
    ),
    SIZE,
  ),
  "num_hidden_layers": DEPTH,
  "rope_theta": SCALE,
  "rms_norm_eps": SCALE,
  "hidden_act": TEXT,
  "tie_word_embeddings": FLAG,
  "attention_bias": FLAG,
  "mlp_bias": FLAG,
  "layer_types": tuple_of(TEXT),
  "rope_parameters": _SECTION,
  "rope_scaling": _SECTION,
}

FAMILY = Family(
  name="llama",
  config_type=decoder.LlamaConfig,
  decoder_only=True,
  init=decoder.init,
  hidden=hidden,
  head=decoder.head,
  observe=decoder.observe,
  start=decoder.start,
  layer_weights=decoder.layer_weights,
  unstack=decoder.unstack,
  step=decoder.step,
  hidden_of_tree=decoder.hidden_of_tree,
  logits_of_tree=decoder.logits_of_tree,
  take_rows=decoder.take_rows,
  reorder=decoder.reorder,
  huggingface=HuggingFaceFormat(
    supported="llama, mistral",
    model_types=("llama", "mistral"),
    task_type="CAUSAL_LM",
    schema=_SCHEMA,
    read_config=read_config,
    write_config=write_config,
    tensors=tensors,
    copies=copies,
    base_prefix="model.",
    is_unused=is_unused,
    kept_keys=("max_position_embeddings",),
  ),
)
