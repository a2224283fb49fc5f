"""What Llama's family and its relatives share: their record, config.json and tensors."""

import re
from collections.abc import Mapping
from typing import Any

import jax

from factshock.models import decoder
from factshock.models.decoder_config import MixedConfig
from factshock.models.families import Family
from factshock.models.formats.tensors import HuggingFaceFormat, LayerTensor, Tensor, stacked
from factshock.models.model_config import DEPTH, SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import FLAG, TEXT, Check, known_problems, tuple_of
from factshock.types import Batch, Params

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ROPE_TYPES = {"default": (), "linear": ("factor",), "llama3": _LLAMA3}
_SECTION = Check((dict,), lambda v: True, "an object")
_ROPE_SCHEMA = {
  **dict.fromkeys((*_LLAMA3, "rope_theta", "partial_rotary_factor"), SCALE),
  "rope_type": TEXT,
  "type": TEXT,
}
_ROTARY_FREQUENCIES = re.compile(
  r"model\.(layers\.\d+\.self_attn\.)?rotary_emb(_local)?\.(original_)?inv_freq"
)
_FULL = "full_attention"
_SLIDING = "sliding_attention"

# Checks of the keys of config.json that all these families read.
SCHEMA = {
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
  "use_sliding_window": FLAG,
  "layer_types": tuple_of(TEXT),
  "rope_parameters": _SECTION,
  "rope_scaling": _SECTION,
}


def family(name: str, config_type: type, huggingface: HuggingFaceFormat) -> Family:
  """Returns the record of a family whose models are those of models/decoder.py.

  Args:
    name: of the family.
    config_type: a decoder.LlamaConfig or a class of that.
    huggingface: how HuggingFace folders store its models.
  """
  return Family(
    name=name,
    config_type=config_type,
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
    huggingface=huggingface,
  )


def huggingface_format(**own: Any) -> HuggingFaceFormat:
  """Returns how folders store models of a family, but for what it has of its own.

  Args:
    **own: attributes of HuggingFaceFormat.
  """
  common: dict[str, Any] = dict(
    task_type="CAUSAL_LM",
    tensors=tensors,
    copies=copies,
    base_prefix="model.",
    is_unused=is_unused,
    kept_keys=("max_position_embeddings",),
    schema=SCHEMA,
  )
  return HuggingFaceFormat(**(common | own))


def hidden(
  params: Params, model_config: decoder.LlamaConfig, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
  """Returns what `decoder.head` makes logits of, for each token of a batch: [B, S, D].

  Args:
    params: as from `decoder.init`.
    model_config: the model's sizes.
    batch: `tokens` [B, S]; of packed rows `segments` too.
    key: not read, as the decoders have no dropout.
  """
  return decoder.hidden(params, model_config, batch["tokens"], segments_BxS=batch.get("segments"))


def sizes(values: Mapping[str, Any], dtype: str) -> dict[str, Any]:
  """Returns what every config.json of these families says the same way, by our settings' names.

  Args:
    values: the JSON object, with the family's defaults for what it lacks.
    dtype: of the computation.

  Raises:
    KeyError: a size is missing.
  """
  heads = values["num_attention_heads"]
  return {
    "vocab_size": values["vocab_size"],
    "d_model": values["hidden_size"],
    "d_ff": values["intermediate_size"],
    "num_heads": heads,
    "num_kv_heads": values.get("num_key_value_heads") or heads,
    "d_kv": values.get("head_dim") or values["hidden_size"] // heads,
    "layers": values["num_hidden_layers"],
    "max_length": values["max_position_embeddings"],
    "tie_head": bool(values.get("tie_word_embeddings", False)),
    "dtype": dtype,
    "epsilon": values.get("rms_norm_eps", 1e-6),
  }


def check_plain(
  values: Mapping[str, Any],
  path: str,
  *,
  activation: tuple[str, str] = ("hidden_act", "silu"),
  off: tuple[str, ...] = ("attention_bias", "mlp_bias"),
) -> None:
  """Checks that a config.json asks for no variant that is not supported.

  Args:
    values: the JSON object.
    path: name of it in errors.
    activation: the key of the feed-forward's activation, and its only value.
    off: keys of what may not be on.

  Raises:
    UserError: it does; names it.
  """
  for key in off:
    if values.get(key):
      hint = "; supported are models without biases" if key.endswith("_bias") else ""
      raise UserError(f"{path}: {key} is not supported{hint}")
  key, expected = activation
  if values.get(key, expected) != expected:
    raise UserError(f"{path}: {key} {values[key]!r} is not supported; supported is {expected}")


def write_sizes(
  model_config: decoder.LlamaConfig, model_type: str, architecture: str
) -> dict[str, Any]:
  """Returns what every config.json of these families says the same way; without dtype."""
  return {
    "architectures": [architecture],
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
    **write_rope(model_config),
  }


def rope(
  values: Mapping[str, Any], path: str, theta: float = 10000.0
) -> tuple[float, tuple[float, ...] | None]:
  """Returns the base of the wavelengths, and their scaling as rotary.frequencies takes it.

  They stand in `rope_parameters` of transformers 5, else in the older two keys.

  Args:
    values: the JSON object.
    path: name of it in errors.
    theta: the base where none is given.
  """
  section = values.get("rope_parameters") or values.get("rope_scaling") or {}
  return rope_of(section, path, values.get("rope_theta") or theta)


def rope_of(
  section: Mapping[str, Any], path: str, theta: float
) -> tuple[float, tuple[float, ...] | None]:
  """Returns what `rope` does of one section; `theta` is the base where it gives none."""
  problems = known_problems(section, _ROPE_SCHEMA)
  if problems:
    raise UserError(f"{path}: rope_parameters: {'; '.join(problems)}")
  rope_type = section.get("rope_type", section.get("type", "default"))
  whole_heads = section.get("partial_rotary_factor", 1.0) == 1.0
  if rope_type not in _ROPE_TYPES or not whole_heads:
    raise UserError(
      f"{path}: rope type {rope_type!r} is not supported; supported are default, linear and "
      "llama3, over whole heads"
    )
  scaling = tuple(section[key] for key in _ROPE_TYPES[rope_type])
  return float(section.get("rope_theta") or theta), scaling or None


def write_rope(model_config: decoder.LlamaConfig) -> dict[str, Any]:
  """Returns what config.json says of positions, in its old and its new form."""
  section = rope_section(model_config.rope_scaling)
  return {
    "rope_theta": model_config.rope_theta,
    "rope_scaling": section if model_config.rope_scaling else None,
    "rope_parameters": section | {"rope_theta": model_config.rope_theta},
  }


def rope_section(scaling: tuple[float, ...] | None) -> dict[str, Any]:
  """Returns the section of config.json on the scaling of wavelengths, without their base."""
  if not scaling:
    return {"rope_type": "default"}
  rope_type = "linear" if len(scaling) == 1 else "llama3"
  return {"rope_type": rope_type, **dict(zip(_ROPE_TYPES[rope_type], scaling))}


def windows(
  values: Mapping[str, Any], path: str, window: int | None, default_types: list[str]
) -> dict[str, Any]:
  """Returns `sliding_window` and `global_layers`, of decoder_config.MixedConfig.

  Args:
    values: the JSON object.
    path: name of it in errors.
    window: of the layers that have one.
    default_types: the kinds of attention of the layers where `layer_types` does not say.

  Raises:
    UserError: kinds of attention that are not supported, not one for each layer, or without window.
  """
  types = values.get("layer_types") or default_types
  depth = values["num_hidden_layers"]
  if len(types) != depth or not {*types} <= {_FULL, _SLIDING}:
    raise UserError(
      f"{path}: layer_types: expected {_FULL} or {_SLIDING} for each of {depth} layers, got "
      f"{types!r:.80}"
    )
  if _SLIDING not in types:
    return {"sliding_window": None, "global_layers": ()}
  if window is None:
    raise UserError(f"{path}: layer_types names {_SLIDING}, but there is no sliding_window in use")
  layers = tuple(layer for layer, kind in enumerate(types) if kind == _FULL)
  return {"sliding_window": window, "global_layers": layers}


def every(interval: int, depth: int) -> list[str]:
  """Returns the kinds of attention of layers of which every so many sees all tokens."""
  return [_SLIDING if (layer + 1) % interval else _FULL for layer in range(depth)]


def after(first: int, depth: int) -> list[str]:
  """Returns the kinds of attention of layers of which those from `first` on have a window."""
  return [_SLIDING if layer >= first else _FULL for layer in range(depth)]


def write_windows(model_config: MixedConfig) -> dict[str, Any]:
  """Returns what config.json says of the kinds of attention of the layers."""
  window = model_config.sliding_window
  has_all = [
    window is None or layer in model_config.global_layers for layer in range(model_config.layers)
  ]
  return {
    "sliding_window": window,
    "layer_types": [_FULL if sees_all else _SLIDING for sees_all in has_all],
  }


def tensors(model_config: decoder.LlamaConfig) -> list[Tensor]:
  """Returns every tensor of a model's file, ordered by leaf, then layer."""
  vocabulary = (model_config.vocab_size, model_config.d_model)
  listed = [Tensor("model.embed_tokens.weight", "embedding", None, False, vocabulary)]
  if not model_config.tie_head:
    listed.append(Tensor("lm_head.weight", "head", None, False, vocabulary))
  width = (model_config.d_model,)
  listed.append(Tensor("model.norm.weight", "final_norm/scale", None, False, width))
  norms = {
    leaf: LayerTensor(f"{leaf}/scale", name, width)
    for leaf, name in _norm_names(model_config).items()
  }
  in_layer = [
    *_of("self_attention", norms),
    *_attention_tensors(model_config),
    *_of("feed_forward", norms),
    *_feed_forward_tensors(model_config),
  ]
  return listed + stacked(in_layer, model_config.layers, "layers", "model.layers")


def _of(block: str, norms: Mapping[str, LayerTensor]) -> list[LayerTensor]:
  """Returns the norms before and after attention or feed-forward."""
  return [tensor for leaf, tensor in norms.items() if leaf.startswith(block)]


def _norm_names(model_config: decoder.LlamaConfig) -> dict[str, str]:
  """Returns the names of a layer's norms in files, by ours.

  The norm before feed-forward is called post_attention_layernorm where none follows attention.
  """
  variant = model_config.variant
  names = {}
  if variant.norm_before:
    names["self_attention_norm"] = "input_layernorm"
    names["feed_forward_norm"] = (
      "pre_feedforward_layernorm" if variant.norm_after else "post_attention_layernorm"
    )
  if variant.norm_after:
    names["self_attention_post_norm"] = "post_attention_layernorm"
    names["feed_forward_post_norm"] = "post_feedforward_layernorm"
  return names


def _attention_tensors(model_config: decoder.LlamaConfig) -> list[LayerTensor]:
  """Returns the tensors of a layer's attention."""
  d_model = model_config.d_model
  d_kv = model_config.d_kv
  queries = model_config.num_heads * d_kv
  keys = model_config.num_kv_heads * d_kv
  wide = {"query": queries, "key": keys, "value": keys}
  variant = model_config.variant
  listed = [
    LayerTensor(f"self_attention/{name}", f"self_attn.{name[0]}_proj", (size, d_model))
    for name, size in wide.items()
  ]
  listed.append(LayerTensor("self_attention/out", "self_attn.o_proj", (d_model, queries)))
  if variant.qkv_bias:
    for name, size in wide.items():
      file_name = f"self_attn.{name[0]}_proj.bias"
      listed.append(LayerTensor(f"self_attention/{name}_bias", file_name, (size,)))
  if variant.qk_norm != "none":
    for name in ("query", "key"):
      size = d_kv if variant.qk_norm == "head" else wide[name]
      file_name = f"self_attn.{name[0]}_norm"
      listed.append(LayerTensor(f"self_attention/{name}_norm/scale", file_name, (size,)))
  return listed


def _feed_forward_tensors(model_config: decoder.LlamaConfig) -> list[LayerTensor]:
  """Returns the tensors of a layer's feed-forward."""
  inputs = (model_config.d_ff, model_config.d_model)
  return [
    LayerTensor("feed_forward/gate", "mlp.gate_proj", inputs),
    LayerTensor("feed_forward/up", "mlp.up_proj", inputs),
    LayerTensor("feed_forward/down", "mlp.down_proj", inputs[::-1]),
  ]


def copies(model_config: decoder.LlamaConfig) -> dict[str, str]:
  """Returns the tensors that may repeat another one, by name: a tied head repeats the embedding."""
  return {"lm_head.weight": "model.embed_tokens.weight"} if model_config.tie_head else {}


def is_unused(name: str) -> bool:
  """Returns whether a tensor holds rotary frequencies, which are computed from the config."""
  return _ROTARY_FREQUENCIES.fullmatch(name) is not None
