"""PyTorch transformers' Llama and Mistral with random weights, and their state dicts as our params:
the oracle.
"""

import jax
import numpy as np

from factshock.models import decoder


def peer(config, seed=0):
  """A LlamaForCausalLM, or with a sliding window a MistralForCausalLM, of the same sizes; eager
  attention, float32.
  """
  import torch
  import transformers

  torch.manual_seed(seed)
  sizes = dict(
    vocab_size=config.vocab_size,
    hidden_size=config.d_model,
    intermediate_size=config.d_ff,
    num_hidden_layers=config.layers,
    num_attention_heads=config.num_heads,
    head_dim=config.d_kv,
    num_key_value_heads=config.num_kv_heads,
    max_position_embeddings=config.max_length,
    rms_norm_eps=config.epsilon,
    tie_word_embeddings=config.tie_head,
    attn_implementation="eager",
    rope_parameters=_rope(config),
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
  )
  if config.sliding_window is None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
  else:
    model = transformers.MistralForCausalLM(
      transformers.MistralConfig(sliding_window=config.sliding_window, **sizes)
    )
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if "norm" in name:  # norm scales start as ones, which would hide a mix-up of them
        parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
      else:
        parameter.copy_(
          torch.randn_like(parameter) * (1.0 if "embed" in name else parameter.shape[1] ** -0.5)
        )
  return model.eval()


def _rope(config):
  if config.rope_scaling is None:
    return {"rope_type": "default", "rope_theta": config.rope_theta}
  factor, low, high, original = config.rope_scaling
  return {
    "rope_type": "llama3",
    "rope_theta": config.rope_theta,
    "factor": factor,
    "low_freq_factor": low,
    "high_freq_factor": high,
    "original_max_position_embeddings": original,
  }


def params(config, state):
  """Our params (float32 numpy) from a state dict of tensors; linear weights are transposed."""
  state = {name: np.asarray(value.detach().float(), np.float32) for name, value in state.items()}
  tree = {
    "embedding": state["model.embed_tokens.weight"],
    "final_norm": {"scale": state["model.norm.weight"]},
    "layers": jax.tree.map(
      lambda *arrays: np.stack(arrays),
      *[_layer(state, f"model.layers.{number}") for number in range(config.layers)],
    ),
  }
  if not config.tie_head:
    tree["head"] = state["lm_head.weight"]
  return tree


def _layer(state, prefix):
  def linear(part, names):
    return {
      ours: state[f"{prefix}.{part}.{theirs}_proj.weight"].T for ours, theirs in names.items()
    }

  return {
    "self_attention": linear("self_attn", {"query": "q", "key": "k", "value": "v", "out": "o"}),
    "feed_forward": linear("mlp", {"gate": "gate", "up": "up", "down": "down"}),
    "self_attention_norm": {"scale": state[f"{prefix}.input_layernorm.weight"]},
    "feed_forward_norm": {"scale": state[f"{prefix}.post_attention_layernorm.weight"]},
  }


def gradients(config, model):
  """Gradients of the model as a tree like `params`."""
  return params(config, {name: value.grad for name, value in model.named_parameters()})


def tokens(config, rows=3, length=12, left=False, seed=0):
  """Random tokens with PAD on one side, rows of different lengths, the first one whole."""
  random = np.random.default_rng(seed)
  found = random.integers(3, config.vocab_size, (rows, length)).astype(np.int32)
  sizes = random.integers(3, length, rows)
  sizes[0] = length
  column = np.arange(length)[None]
  used = column >= length - sizes[:, None] if left else column < sizes[:, None]
  return np.where(used, found, decoder.PAD).astype(np.int32)
