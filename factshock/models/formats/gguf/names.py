"""Names of tensors: those of llama.cpp as HuggingFace's, which our families read."""

import dataclasses
import re
from collections.abc import Mapping

from factshock.models.formats.gguf.tensors import Quantized

_LAYER = re.compile(r"(blk|enc\.blk|dec\.blk)\.(\d{1,6})\.(\w+)\.(weight|bias)")
_WHOLE = {
  "token_embd": "model.embed_tokens",
  "output": "lm_head",
  "output_norm": "model.norm",
}
_T5_WHOLE = {
  "token_embd": "shared",
  "output": "lm_head",
  "enc.output_norm": "encoder.final_layer_norm",
  "dec.output_norm": "decoder.final_layer_norm",
}
_ATTENTION = {
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
}
_FEED_FORWARD = {
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
# What the norms of a layer are called, by where they stand.
_NORMS_BEFORE = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_NORMS_AFTER = {
  "post_attention_norm": "post_attention_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}
_NORMS_AROUND = {
  **_NORMS_AFTER,
  "attn_norm": "input_layernorm",
  "ffn_norm": "pre_feedforward_layernorm",
}
_T5_ENCODER = {
  "attn_norm": "layer.0.layer_norm",
  "attn_q": "layer.0.SelfAttention.q",
  "attn_k": "layer.0.SelfAttention.k",
  "attn_v": "layer.0.SelfAttention.v",
  "attn_o": "layer.0.SelfAttention.o",
  "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
}
_T5_CROSS = {
  "cross_attn_norm": "layer.1.layer_norm",
  "cross_attn_q": "layer.1.EncDecAttention.q",
  "cross_attn_k": "layer.1.EncDecAttention.k",
  "cross_attn_v": "layer.1.EncDecAttention.v",
  "cross_attn_o": "layer.1.EncDecAttention.o",
  "cross_attn_rel_b": "layer.1.EncDecAttention.relative_attention_bias",
}


@dataclasses.dataclass(frozen=True)
class Naming:
  """Says how the tensors of an architecture are named and stored.

  Attributes:
    whole: HuggingFace's names of the tensors outside of layers, without their ending.
    layers: what stands before a layer's number, by llama.cpp's word for the stack.
    in_layer: HuggingFace's names within a layer, by stack, then by llama.cpp's name.
    heads_reordered: whether the rows of queries and keys are in llama.cpp's order.
    norm_shift: what is added to the norms' weights.
    unused: tensors that llama.cpp stores and our models do not have.
  """

  whole: Mapping[str, str]
  layers: Mapping[str, str]
  in_layer: Mapping[str, Mapping[str, str]]
  heads_reordered: bool = False
  norm_shift: float = 0.0
  unused: tuple[str, ...] = ()


def decoder(norms: Mapping[str, str], reordered: bool = False, norm_shift: float = 0.0) -> Naming:
  """Returns the naming of a decoder with these norms."""
  return Naming(
    whole=_WHOLE,
    layers={"blk": "model.layers"},
    in_layer={"blk": {**_ATTENTION, **_FEED_FORWARD, **norms}},
    heads_reordered=reordered,
    norm_shift=norm_shift,
    unused=("rope_freqs.weight",),
  )


def _t5() -> Naming:
  """Returns the naming of a T5, whose feed-forward layers with a gate have wi_0 and wi_1."""
  return Naming(
    whole=_T5_WHOLE,
    layers={"enc.blk": "encoder.block", "dec.blk": "decoder.block"},
    in_layer={
      "enc.blk": {**_T5_ENCODER, **_t5_feed_forward(1)},
      "dec.blk": {**_T5_ENCODER, **_T5_CROSS, **_t5_feed_forward(2)},
    },
  )


def _t5_feed_forward(layer: int) -> dict[str, str]:
  return {
    "ffn_norm": f"layer.{layer}.layer_norm",
    "ffn_gate": f"layer.{layer}.DenseReluDense.wi_0",
    "ffn_up": f"layer.{layer}.DenseReluDense.wi_1",
    "ffn_down": f"layer.{layer}.DenseReluDense.wo",
  }


LLAMA = decoder(_NORMS_BEFORE, reordered=True)
QWEN = decoder(_NORMS_BEFORE)
GEMMA = decoder(_NORMS_AROUND, norm_shift=-1.0)
OLMO2 = decoder(_NORMS_AFTER)
T5 = _t5()


def renamed(
  tensors: Mapping[str, Quantized], naming: Naming, heads: Mapping[str, int]
) -> dict[str, Quantized]:
  """Returns tensors by HuggingFace's names and in its layout; others keep their names.

  Args:
    tensors: by llama.cpp's names.
    naming: of the architecture.
    heads: how many heads `attn_q` and `attn_k` have.
  """
  listed = {}
  for name, tensor in tensors.items():
    if name in naming.unused:
      continue
    listed[_full_name(name, naming, tensors)] = _in_layout(name, tensor, naming, heads)
  return listed


def _full_name(name: str, naming: Naming, tensors: Mapping[str, Quantized]) -> str:
  """Returns HuggingFace's name of a tensor, or its own where there is none."""
  stem, _, ending = name.rpartition(".")
  if stem in naming.whole and ending == "weight":
    return f"{naming.whole[stem]}.weight"
  match = _LAYER.fullmatch(name)
  if match is None or match[3] not in naming.in_layer.get(match[1], {}):
    return name
  inner = naming.in_layer[match[1]][match[3]]
  if inner.endswith("wi_1") and f"{match[1]}.{match[2]}.ffn_gate.weight" not in tensors:
    inner = inner.removesuffix("_1")
  return f"{naming.layers[match[1]]}.{int(match[2])}.{inner}.{match[4]}"


def _in_layout(name: str, tensor: Quantized, naming: Naming, heads: Mapping[str, int]) -> Quantized:
  """Returns a tensor as HuggingFace has it."""
  match = _LAYER.fullmatch(name)
  part = match[3] if match else ""
  if naming.heads_reordered and part in heads:
    rows = tensor.shape[0] // max(1, heads[part])
    # Of other sizes than the metadata say it is refused by them.
    whole = rows > 0 and rows % 2 == 0 and tensor.shape[0] % rows == 0
    return dataclasses.replace(tensor, head_rows=rows if whole else 0)
  if naming.norm_shift and name.endswith("norm.weight"):
    return dataclasses.replace(tensor, shift=naming.norm_shift)
  return tensor
