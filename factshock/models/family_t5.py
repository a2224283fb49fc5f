"""Family "t5": T5 v1.0 and v1.1, LM-adapted and Flan models, and the relatives mT5, UMT5, ByT5."""

from collections.abc import Mapping
from typing import Any

import jax

from factshock.models import t5
from factshock.models.families import Family
from factshock.models.formats.tensors import HuggingFaceFormat, LayerTensor, Tensor, stacked
from factshock.models.model_config import DEPTH, DROPOUT, SCALE, SIZE
from factshock.runtime.errors import UserError
from factshock.runtime.settings import FLAG, TEXT
from factshock.types import Batch, Params


def hidden(
  params: Params, model_config: t5.T5Config, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
  """Returns what `t5.head` makes logits of, for each target of a batch: [B, T, D].

  Args:
    params: as from `t5.init`.
    model_config: the model's sizes.
    batch: `inputs` [B, S] and `targets` [B, T]; of packed rows `input_segments` and
      `target_segments` too.
    key: a random key turns dropout on.
  """
  return t5.hidden(
    params,
    model_config,
    batch["inputs"],
    batch["targets"],
    input_segments=batch.get("input_segments"),
    target_segments=batch.get("target_segments"),
    key=key,
  )


def read_config(values: Mapping[str, Any], path: str, dtype: str) -> t5.T5Config:
  """Returns the config of the config.json of a T5 or of a relative.

  Args:
    values: its JSON object.
    path: name of it in errors.
    dtype: of the computation.

  Raises:
    UserError: a feed-forward layer or a head that is not supported, or a value out of range.
    KeyError: a size is missing.
  """
  kind = values.get("model_type", "t5")
  feed_forward = values.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
  if feed_forward not in t5.FEED_FORWARDS:
    raise UserError(
      f"{path}: feed_forward_proj {feed_forward!r} is not supported; supported are "
      f"{', '.join(t5.FEED_FORWARDS)}"
    )
  depth = values["num_layers"]
  return t5.T5Config(
    vocab_size=values["vocab_size"],
    d_model=values["d_model"],
    d_ff=values["d_ff"],
    num_heads=values["num_heads"],
    d_kv=values["d_kv"],
    encoder_layers=depth,
    decoder_layers=values.get("num_decoder_layers") or depth,
    relative_buckets=values.get("relative_attention_num_buckets", 32),
    relative_max_distance=values.get("relative_attention_max_distance", 128),
    bias_in_every_layer=kind == "umt5",
    feed_forward=feed_forward,
    tie_head=_is_tied(values, path),
    dropout=values.get("dropout_rate", 0.1),
    dtype=dtype,
    epsilon=values.get("layer_norm_epsilon", 1e-6),
  )


def _is_tied(values: Mapping[str, Any], path: str) -> bool:
  """Returns whether the head is the embedding, and so the decoder's outputs are scaled.

  transformers 5 always writes tie_word_embeddings true. What was meant it keeps in the key
  scale_decoder_outputs, except of an mT5, whose outputs it never scales: its head is then one of
  its own, even where a file stores it once, being equal to the embedding.

  Raises:
    UserError: an mT5 that transformers 4 has tied, and so scaled.
  """
  if values.get("model_type") != "mt5":
    return bool(values.get("scale_decoder_outputs", values.get("tie_word_embeddings") is not False))
  is_old = str(values.get("transformers_version", "")).startswith("4.")
  if is_old and values.get("tie_word_embeddings") is True:
    raise UserError(
      f"{path}: an mT5 with tie_word_embeddings true, as written by transformers 4, which scaled "
      "the outputs of such a one while transformers 5 scales none; if it was trained so, write "
      'model_type "t5", which is the same architecture with scaled outputs'
    )
  return False


def write_config(model_config: t5.T5Config) -> dict[str, Any]:
  """Returns the config.json of a T5, or of a UMT5 by its biases, without its dtype."""
  kind = "umt5" if model_config.bias_in_every_layer else "t5"
  return {
    "architectures": [f"{kind.upper()}ForConditionalGeneration"],
    "model_type": kind,
    "is_encoder_decoder": True,
    "vocab_size": model_config.vocab_size,
    "d_model": model_config.d_model,
    "d_ff": model_config.d_ff,
    "num_heads": model_config.num_heads,
    "d_kv": model_config.d_kv,
    "num_layers": model_config.encoder_layers,
    "num_decoder_layers": model_config.decoder_layers,
    "relative_attention_num_buckets": model_config.relative_buckets,
    "relative_attention_max_distance": model_config.relative_max_distance,
    "feed_forward_proj": model_config.feed_forward,
    "dropout_rate": model_config.dropout,
    "layer_norm_epsilon": model_config.epsilon,
    "tie_word_embeddings": model_config.tie_head,
    "scale_decoder_outputs": model_config.tie_head,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
  }


def tensors(model_config: t5.T5Config) -> list[Tensor]:
  """Returns every tensor of a T5's file, ordered by leaf, then layer."""
  vocabulary = (model_config.vocab_size, model_config.d_model)
  listed = [Tensor("shared.weight", "embedding", None, False, vocabulary)]
  if not model_config.tie_head:
    listed.append(Tensor("lm_head.weight", "head", None, False, vocabulary))
  listed += _stack_tensors(model_config, "encoder", model_config.encoder_layers)
  listed += _stack_tensors(model_config, "decoder", model_config.decoder_layers)
  return listed


def copies(model_config: t5.T5Config) -> dict[str, str]:
  """Returns the tensors that may repeat another one, by name: the embedding's."""
  names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
  if model_config.tie_head:
    names.append("lm_head.weight")
  return dict.fromkeys(names, "shared.weight")


def is_unused(name: str) -> bool:
  """Returns whether a tensor is the relative bias of the cross-attention, which T5 never reads."""
  return name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def _stack_tensors(model_config: t5.T5Config, side: str, depth: int) -> list[Tensor]:
  """Returns the tensors of the encoder or the decoder."""
  listed = [
    *_bias_tensors(model_config, side, depth),
    Tensor(
      f"{side}.final_layer_norm.weight",
      f"{side}/final_norm/scale",
      None,
      False,
      (model_config.d_model,),
    ),
  ]
  in_layer = _attention_tensors(model_config, "self_attention", "layer.0", "SelfAttention")
  if side == "decoder":
    in_layer += _attention_tensors(model_config, "cross_attention", "layer.1", "EncDecAttention")
    in_layer += _feed_forward_tensors(model_config, "layer.2")
  else:
    in_layer += _feed_forward_tensors(model_config, "layer.1")
  return listed + stacked(in_layer, depth, f"{side}/layers", f"{side}.block")


def _bias_tensors(model_config: t5.T5Config, side: str, depth: int) -> list[Tensor]:
  """Returns the relative position biases of the encoder or the decoder."""
  shape = (model_config.relative_buckets, model_config.num_heads)
  name = f"{side}.block.%d.layer.0.SelfAttention.relative_attention_bias.weight"
  if not model_config.bias_in_every_layer:
    return [Tensor(name % 0, f"{side}/relative_bias", None, False, shape)]
  leaf = f"{side}/layers/relative_bias"
  return [Tensor(name % layer, leaf, layer, False, shape) for layer in range(depth)]


def _attention_tensors(
  model_config: t5.T5Config, leaf: str, prefix: str, block: str
) -> list[LayerTensor]:
  """Returns the tensors of one attention of a layer and of the norm before it.

  Args:
    model_config: the model's sizes.
    leaf: our name of the attention.
    prefix: what stands before its tensors' names within the layer of the file.
    block: the file's name of the attention.
  """
  d_model = model_config.d_model
  width = model_config.num_heads * model_config.d_kv
  return [
    LayerTensor(f"{leaf}_norm/scale", f"{prefix}.layer_norm", (d_model,)),
    LayerTensor(f"{leaf}/query", f"{prefix}.{block}.q", (width, d_model)),
    LayerTensor(f"{leaf}/key", f"{prefix}.{block}.k", (width, d_model)),
    LayerTensor(f"{leaf}/value", f"{prefix}.{block}.v", (width, d_model)),
    LayerTensor(f"{leaf}/out", f"{prefix}.{block}.o", (d_model, width)),
  ]


def _feed_forward_tensors(model_config: t5.T5Config, prefix: str) -> list[LayerTensor]:
  """Returns the tensors of a layer's feed-forward part and of the norm before it."""
  d_model = model_config.d_model
  d_ff = model_config.d_ff
  block = f"{prefix}.DenseReluDense"
  if model_config.feed_forward == "relu":
    into = [LayerTensor("feed_forward/up", f"{block}.wi", (d_ff, d_model))]
  else:
    into = [
      LayerTensor("feed_forward/gate", f"{block}.wi_0", (d_ff, d_model)),
      LayerTensor("feed_forward/up", f"{block}.wi_1", (d_ff, d_model)),
    ]
  return [
    LayerTensor("feed_forward_norm/scale", f"{prefix}.layer_norm", (d_model,)),
    *into,
    LayerTensor("feed_forward/down", f"{block}.wo", (d_model, d_ff)),
  ]


_SCHEMA = {
  **dict.fromkeys(
    (
      "vocab_size",
      "d_model",
      "d_ff",
      "num_heads",
      "d_kv",
      "relative_attention_num_buckets",
      "relative_attention_max_distance",
    ),
    SIZE,
  ),
  "num_layers": DEPTH,
  "num_decoder_layers": DEPTH,
  "feed_forward_proj": TEXT,
  "scale_decoder_outputs": FLAG,
  "tie_word_embeddings": FLAG,
  "dropout_rate": DROPOUT,
  "layer_norm_epsilon": SCALE,
}

FAMILY = Family(
  name="t5",
  config_type=t5.T5Config,
  decoder_only=False,
  init=t5.init,
  hidden=hidden,
  head=t5.head,
  observe=t5.observe,
  start=t5.start,
  layer_weights=t5.layer_weights,
  unstack=t5.unstack,
  step=t5.step,
  hidden_of_tree=t5.hidden_of_tree,
  logits_of_tree=t5.logits_of_tree,
  take_rows=t5.take_rows,
  reorder=t5.reorder,
  huggingface=HuggingFaceFormat(
    supported="t5 (v1.0, v1.1, LM-adapted, flan, ByT5), mt5, umt5",
    model_types=("t5", "mt5", "umt5"),
    task_type="SEQ_2_SEQ_LM",
    schema=_SCHEMA,
    read_config=read_config,
    write_config=write_config,
    tensors=tensors,
    copies=copies,
    is_unused=is_unused,
    kept_keys=("dropout_rate",),
  ),
)
