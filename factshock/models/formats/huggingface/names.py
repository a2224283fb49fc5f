"""Which tensor of a HuggingFace model is which part of which leaf of our parameters."""

import re
from typing import NamedTuple

from factshock.models import t5


class Tensor(NamedTuple):
  """A tensor of a HuggingFace file: `shape` as stored there; linear weights are [out, in], ours [in, out]."""

  name: str
  leaf: str  # key path in our tree, such as "encoder/layers/self_attention/query"
  layer: int | None  # its place on the leaf's first axis
  transposed: bool
  shape: tuple


def tensors(config):
  """Every tensor of a model, ordered by leaf, then layer. A tied head has none of its own."""
  return _t5(config) if isinstance(config, t5.T5Config) else _llama(config)


def by_leaf(config):
  """Dict leaf -> its tensors."""
  leaves = {}
  for tensor in tensors(config):
    leaves.setdefault(tensor.leaf, []).append(tensor)
  return leaves


def leaf_shape(parts):
  """Shape of the leaf that these tensors make up."""
  shape = parts[0].shape[::-1] if parts[0].transposed else parts[0].shape
  return shape if parts[0].layer is None else (len(parts), *shape)


def copies(config):
  """Dict of the tensors that may stand in a file beside the one they equal: name -> name of that one."""
  if isinstance(config, t5.T5Config):
    tied = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return dict.fromkeys(tied + ["lm_head.weight"] * config.tie_head, "shared.weight")
  return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_head else {}


def harmless(config, name):
  """Whether a tensor that published files hold has no use: rotary frequencies, a bias that T5 never reads."""
  if isinstance(config, t5.T5Config):
    return name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  return re.fullmatch(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", name) is not None


def _t5(config):
  width, d_model, vocab = (
    config.num_heads * config.d_kv,
    config.d_model,
    (config.vocab_size, config.d_model),
  )
  found = [Tensor("shared.weight", "embedding", None, False, vocab)]
  if not config.tie_head:
    found.append(Tensor("lm_head.weight", "head", None, False, vocab))
  for side, depth in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
    found += [
      Tensor(
        f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        f"{side}/relative_bias",
        None,
        False,
        (config.relative_buckets, config.num_heads),
      ),
      Tensor(
        f"{side}.final_layer_norm.weight", f"{side}/final_norm/scale", None, False, (d_model,)
      ),
    ]
    parts = _attention("self_attention", "layer.0", "SelfAttention", width, d_model)
    if side == "decoder":
      parts += _attention("cross_attention", "layer.1", "EncDecAttention", width, d_model)
    parts += _feed_forward(config, "layer.2" if side == "decoder" else "layer.1")
    found += _stacked(parts, depth, f"{side}/layers", f"{side}.block")
  return found


def _attention(ours, prefix, theirs, width, d_model):
  into = [
    (f"{ours}/{one}", f"{prefix}.{theirs}.{letter}", (width, d_model))
    for one, letter in (("query", "q"), ("key", "k"), ("value", "v"))
  ]
  return [
    (f"{ours}_norm/scale", f"{prefix}.layer_norm", (d_model,)),
    *into,
    (f"{ours}/out", f"{prefix}.{theirs}.o", (d_model, width)),
  ]


def _feed_forward(config, prefix):
  names = {"up": "wi"} if config.feed_forward == "relu" else {"gate": "wi_0", "up": "wi_1"}
  return [
    ("feed_forward_norm/scale", f"{prefix}.layer_norm", (config.d_model,)),
    *(
      (f"feed_forward/{ours}", f"{prefix}.DenseReluDense.{theirs}", (config.d_ff, config.d_model))
      for ours, theirs in names.items()
    ),
    ("feed_forward/down", f"{prefix}.DenseReluDense.wo", (config.d_model, config.d_ff)),
  ]


def _llama(config):
  d_model, d_ff, vocab = config.d_model, config.d_ff, (config.vocab_size, config.d_model)
  queries = config.num_heads * config.d_kv
  keys = config.num_kv_heads * config.d_kv
  found = [Tensor("model.embed_tokens.weight", "embedding", None, False, vocab)]
  if not config.tie_head:
    found.append(Tensor("lm_head.weight", "head", None, False, vocab))
  found.append(Tensor("model.norm.weight", "final_norm/scale", None, False, (d_model,)))
  parts = [
    ("self_attention_norm/scale", "input_layernorm", (d_model,)),
    ("self_attention/query", "self_attn.q_proj", (queries, d_model)),
    ("self_attention/key", "self_attn.k_proj", (keys, d_model)),
    ("self_attention/value", "self_attn.v_proj", (keys, d_model)),
    ("self_attention/out", "self_attn.o_proj", (d_model, queries)),
    ("feed_forward_norm/scale", "post_attention_layernorm", (d_model,)),
    ("feed_forward/gate", "mlp.gate_proj", (d_ff, d_model)),
    ("feed_forward/up", "mlp.up_proj", (d_ff, d_model)),
    ("feed_forward/down", "mlp.down_proj", (d_model, d_ff)),
  ]
  return found + _stacked(parts, config.layers, "layers", "model.layers")


def _stacked(parts, depth, ours, theirs):
  return [
    Tensor(f"{theirs}.{layer}.{name}.weight", f"{ours}/{leaf}", layer, len(shape) == 2, shape)
    for leaf, name, shape in parts
    for layer in range(depth)
  ]
