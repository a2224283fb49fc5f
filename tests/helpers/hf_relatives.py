"""Llama's relatives as PyTorch transformers has them, tiny, with random weights: the oracle.

Their settings are written as transformers' own, and read by ours from the folders it saves.
"""

import functools
import pathlib
import tempfile

import jax
import numpy as np

from factshock.models.decoder_config import PAD
from factshock.models.formats import huggingface
from factshock.models.formats.huggingface import names

_SIZES = dict(
  vocab_size=60,
  hidden_size=32,
  intermediate_size=40,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=64,
  attn_implementation="eager",
  bos_token_id=1,
  eos_token_id=2,
  pad_token_id=0,
)
_GEMMA = dict(head_dim=12, query_pre_attn_scalar=20, sliding_window=4)
_LINEAR = {
  "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
  "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 900.0},
}
# Name -> class of transformers' config, and its settings.
PEERS = {
  "gemma3": ("Gemma3TextConfig", dict(_GEMMA, num_hidden_layers=3, sliding_window_pattern=2)),
  "gemma3 wide": (
    "Gemma3TextConfig",
    dict(
      _GEMMA,
      num_hidden_layers=3,
      rope_parameters=_LINEAR,
      layer_types=["full_attention", "sliding_attention", "sliding_attention"],
      final_logit_softcapping=2.0,
      tie_word_embeddings=False,
    ),
  ),
  "gemma2": (
    "Gemma2Config",
    dict(_GEMMA, num_hidden_layers=3, attn_logit_softcapping=1.5, final_logit_softcapping=3.0),
  ),
  "qwen2": ("Qwen2Config", dict(num_hidden_layers=2, tie_word_embeddings=True)),
  "qwen2 window": (
    "Qwen2Config",
    dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1),
  ),
  "qwen3": ("Qwen3Config", dict(num_hidden_layers=2, head_dim=12)),
  "olmo2": ("Olmo2Config", dict(num_hidden_layers=2)),
  "smollm3": ("SmolLM3Config", dict(num_hidden_layers=4, no_rope_layer_interval=2)),
}


def their_config(name, **changes):
  """transformers' config of a peer."""
  import transformers

  kind, own = PEERS[name]
  return getattr(transformers, kind)(**{**_SIZES, **own, **changes})


def peer(name, seed=0, **changes):
  """A model of transformers with random weights, float32, eager attention."""
  import torch
  import transformers

  torch.manual_seed(seed)
  model = transformers.AutoModelForCausalLM.from_config(their_config(name, **changes))
  with torch.no_grad():
    for key, parameter in model.named_parameters():
      if "norm" in key:
        offset = 0.0 if "gemma" in name else 1.0
        parameter.copy_(offset + 0.2 * torch.randn_like(parameter))
      elif "bias" in key:
        parameter.copy_(0.5 * torch.randn_like(parameter))
      else:
        scale = 1.0 if "embed" in key else parameter.shape[1] ** -0.5
        parameter.copy_(torch.randn_like(parameter) * scale)
  return model.eval()


@functools.cache
def pair(name):
  """(our config, their model, our params as numpy) of a peer, read from the folder it saves."""
  model = peer(name)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(pathlib.Path(folder) / "model")
    params, config = huggingface.load(pathlib.Path(folder) / "model")
  return config, model, jax.tree.map(np.asarray, params)


def gradients(config, model):
  """Gradients of the model as a tree like our params."""
  own = dict(model.named_parameters())
  tree = {}
  for leaf, tensors in names.by_leaf(config).items():
    arrays = [own[tensor.name].grad.numpy() for tensor in tensors]
    arrays = [array.T if tensors[0].transposed else array for array in arrays]
    *parents, last = leaf.split("/")
    inner = tree
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[last] = arrays[0] if tensors[0].layer is None else np.stack(arrays)
  return tree


def logits(model, tokens):
  """Logits of transformers; its positions are told, as it would count left padding."""
  import torch

  used = tokens != PAD
  positions = np.maximum(np.cumsum(used, axis=1) - 1, 0)
  return model(
    input_ids=torch.tensor(np.maximum(tokens, 0)).long(),
    attention_mask=torch.tensor(used).long(),
    position_ids=torch.tensor(positions).long(),
    use_cache=False,
  ).logits
