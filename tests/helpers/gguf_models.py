"""GGUF files of small models, written as llama.cpp's convert_hf_to_gguf.py writes them.

Names of tensors are those of package gguf (its TensorNameMap), values come from models of
transformers with random weights.
"""

import gguf
import numpy as np
import torch
import transformers

WORDS = [f"w{number}" for number in range(40)]
SIZES = {
  "vocab_size": 300,
  "hidden_size": 32,
  "intermediate_size": 64,
  "num_hidden_layers": 4,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "tie_word_embeddings": False,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
GEMMA = {**SIZES, "head_dim": 16, "tie_word_embeddings": True, "sliding_window": 8}
# llama.cpp's architecture -> (transformers' model_type, what differs from its defaults).
ARCHITECTURES = {
  "llama": ("llama", {**SIZES, "rope_theta": 500.0}),
  "qwen2": ("qwen2", {**SIZES, "tie_word_embeddings": True}),
  "qwen3": ("qwen3", {**SIZES, "head_dim": 16}),
  "olmo2": ("olmo2", SIZES),
  "smollm3": ("smollm3", SIZES),
  "gemma2": ("gemma2", {**GEMMA, "query_pre_attn_scalar": 16}),
  "gemma3": ("gemma3_text", {**GEMMA, "num_hidden_layers": 7, "query_pre_attn_scalar": 16}),
}
T5 = {
  "vocab_size": 300,
  "d_model": 32,
  "d_ff": 64,
  "d_kv": 8,
  "num_heads": 4,
  "num_layers": 2,
  "feed_forward_proj": "gated-gelu",
  "tie_word_embeddings": False,
}


def random_model(architecture, **changes):
  """Returns a model of transformers with random weights, norms included."""
  torch.manual_seed(0)
  if architecture == "t5":
    values = {**T5, **changes}
    is_umt5 = values.pop("model_type", None) == "umt5"
    config = (transformers.UMT5Config if is_umt5 else transformers.T5Config)(**values)
    of_type = (
      transformers.UMT5ForConditionalGeneration
      if is_umt5
      else transformers.T5ForConditionalGeneration
    )
    model = of_type(config)
  else:
    model_type, values = ARCHITECTURES[architecture]
    config = transformers.AutoConfig.for_model(model_type, **{**values, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(torch.randn_like(parameter) * 0.3)
  return model.float().eval()


def reordered(weights, heads):
  """Returns queries or keys as llama.cpp orders their rows (LlamaModel.permute)."""
  shape = weights.shape
  return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def tensors_of(architecture, model):
  """Returns the tensors of a model by llama.cpp's names, in its layout."""
  config = model.config
  kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
  names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
  # transformers 5 says that every T5 is tied, and means the scaling of a tied one's outputs.
  is_tied = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
  tied = {"lm_head.weight"} if is_tied else set()
  tied |= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
  tensors = {}
  for name, tensor in model.state_dict().items():
    if name in tied:
      continue
    array = tensor.float().numpy()
    stem, _, ending = name.rpartition(".")
    if architecture in ("llama", "smollm3") and stem.endswith((".q_proj", ".k_proj")):
      is_key = stem.endswith(".k_proj")
      array = reordered(array, config.num_key_value_heads if is_key else config.num_attention_heads)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
      array = array + 1
    tensors[f"{names.get_name(stem)}.{ending}"] = np.ascontiguousarray(array)
  return tensors


def add_sizes(writer, architecture, config):
  """Writes the metadata of a decoder's sizes."""
  rope = config.rope_parameters
  writer.add_context_length(config.max_position_embeddings)
  writer.add_embedding_length(config.hidden_size)
  writer.add_block_count(config.num_hidden_layers)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
  if architecture in ("llama", "smollm3"):
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
  if architecture in ("qwen3", "gemma2", "gemma3"):
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
  if architecture.startswith("gemma"):
    writer.add_sliding_window(config.sliding_window)
  if architecture == "gemma2":
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)


def add_t5_sizes(writer, config):
  """Writes the metadata of a T5's sizes."""
  writer.add_context_length(512)
  writer.add_embedding_length(config.d_model)
  writer.add_feed_forward_length(config.d_ff)
  writer.add_block_count(config.num_layers)
  writer.add_head_count(config.num_heads)
  writer.add_key_length(config.d_kv)
  writer.add_value_length(config.d_kv)
  writer.add_layer_norm_eps(config.layer_norm_epsilon)
  writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
  writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
  writer.add_decoder_start_token_id(0)


def byte_level():
  """Returns (tokens, merges, types) of a byte-level BPE of every byte and a few words."""
  from transformers.convert_slow_tokenizer import bytes_to_unicode

  alphabet = list(bytes_to_unicode().values())
  tokens = ["<pad>", "<s>", "</s>", *alphabet]
  merges = []
  for left, right in [("\u0120", "t"), ("h", "e"), ("\u0120t", "he"), ("1", "2"), ("\u0120", "1")]:
    merges.append(f"{left} {right}")
    tokens.append(left + right)
  types = [3, 3, 3] + [1] * (len(tokens) - 3)
  return tokens, merges, types


def add_tokenizer(writer, size, pre="gpt-2", **flags):
  """Writes a byte-level BPE of at most `size` tokens, filled up to it."""
  tokens, merges, types = byte_level()
  filled = tokens + [f"[PAD{number}]" for number in range(len(tokens), size)]
  writer.add_tokenizer_model("gpt2")
  if pre:
    writer.add_tokenizer_pre(pre)
  writer.add_token_list(filled)
  writer.add_token_types(types + [5] * (len(filled) - len(types)))
  writer.add_token_merges(merges)
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  writer.add_pad_token_id(0)
  for name, value in flags.items():
    getattr(writer, f"add_{name}")(value)


def write(path, architecture, tensors, add_metadata=(), quantized=None):
  """Writes a file.

  Args:
    path: the file.
    architecture: llama.cpp's name.
    tensors: arrays by llama.cpp's names.
    add_metadata: functions that get the writer.
    quantized: tensor name -> (its bytes, its type).
  """
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_type("model")
  for add in add_metadata:
    add(writer)
  for name, array in tensors.items():
    stored, kind = (quantized or {}).get(name, (array, None))
    writer.add_tensor(name, stored, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def write_model(path, architecture, model=None, add_metadata=(), vocab=None, quantized=None):
  """Writes a file of a model of transformers, a random one where none is given; returns it."""
  model = model or random_model(architecture)
  config = model.config

  def sizes(writer):
    if architecture == "t5":
      add_t5_sizes(writer, config)
    else:
      add_sizes(writer, architecture, config)

  def tokenizer(writer):
    add_tokenizer(writer, vocab or config.vocab_size)

  tensors = tensors_of(architecture, model)
  write(path, architecture, tensors, [sizes, *(add_metadata or [tokenizer])], quantized)
  return model
