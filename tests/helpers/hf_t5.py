"""PyTorch transformers' T5, mT5 and UMT5 with random weights, and their state dict as our params:
the oracle of tests.
"""

import functools

import jax
import numpy as np

# compiles in half the time; for tests that run a function once or a few times
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def peer(config, seed=0, kind=None):
  """A T5ForConditionalGeneration of the same sizes (or of another `kind`: "MT5", "UMT5"), every
  weight random, in evaluation mode, float32.
  """
  import torch
  import transformers

  torch.manual_seed(seed)
  kind = kind or ("UMT5" if config.bias_in_every_layer else "T5")
  model = getattr(transformers, f"{kind}ForConditionalGeneration")(
    getattr(transformers, f"{kind}Config")(
      vocab_size=config.vocab_size,
      d_model=config.d_model,
      d_kv=config.d_kv,
      d_ff=config.d_ff,
      num_layers=config.encoder_layers,
      num_decoder_layers=config.decoder_layers,
      num_heads=config.num_heads,
      relative_attention_num_buckets=config.relative_buckets,
      dropout_rate=config.dropout,
      relative_attention_max_distance=config.relative_max_distance,
      layer_norm_epsilon=config.epsilon,
      feed_forward_proj=config.feed_forward,
      tie_word_embeddings=config.tie_head,
      pad_token_id=0,
      eos_token_id=1,
      decoder_start_token_id=0,
    )
  )
  if not config.tie_head:
    # transformers 5 ties the head of every new T5 and only drops the scaling where told not to tie
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight).normal_(0, 0.3))
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      # norm scales and biases start as constants, which would hide a mix-up of them
      if "layer_norm" in name:
        parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
      elif "relative_attention_bias" in name:
        parameter.copy_(torch.randn_like(parameter))
  return model.eval()


def params(config, state):
  """Our params (float32 numpy) from a state dict of arrays or tensors; linear weights are
  transposed.
  """
  state = {
    name: np.asarray(value.detach().float() if hasattr(value, "detach") else value, np.float32)
    for name, value in state.items()
  }
  tree = {
    "embedding": state["shared.weight"],
    "encoder": _stack(state, "encoder", config.encoder_layers, config),
    "decoder": _stack(state, "decoder", config.decoder_layers, config),
  }
  if not config.tie_head:
    tree["head"] = state["lm_head.weight"]
  return tree


def _stack(state, side, depth, config):
  blocks = [
    _block(state, f"{side}.block.{layer}.layer", side == "decoder", config)
    for layer in range(depth)
  ]
  tree = {
    "final_norm": {"scale": state[f"{side}.final_layer_norm.weight"]},
    "layers": jax.tree.map(lambda *arrays: np.stack(arrays), *blocks),
  }
  biases = [
    state[f"{side}.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight"]
    for layer in range(depth if config.bias_in_every_layer else 1)
  ]
  if config.bias_in_every_layer:
    tree["layers"]["relative_bias"] = np.stack(biases)
  else:
    tree["relative_bias"] = biases[0]
  return tree


def _block(state, prefix, decoder, config):
  last = 2 if decoder else 1
  tree = {
    "self_attention": _attention(state, f"{prefix}.0.SelfAttention"),
    "self_attention_norm": {"scale": state[f"{prefix}.0.layer_norm.weight"]},
    "feed_forward_norm": {"scale": state[f"{prefix}.{last}.layer_norm.weight"]},
  }
  if decoder:
    tree["cross_attention"] = _attention(state, f"{prefix}.1.EncDecAttention")
    tree["cross_attention_norm"] = {"scale": state[f"{prefix}.1.layer_norm.weight"]}
  names = (
    {"up": "wi", "down": "wo"}
    if config.feed_forward == "relu"
    else {"gate": "wi_0", "up": "wi_1", "down": "wo"}
  )
  tree["feed_forward"] = {
    ours: state[f"{prefix}.{last}.DenseReluDense.{theirs}.weight"].T
    for ours, theirs in names.items()
  }
  return tree


def _attention(state, prefix):
  return {
    ours: state[f"{prefix}.{theirs}.weight"].T
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
  }


def gradients(config, model):
  """Gradients of the model as a tree like `params`."""
  return params(config, {name: value.grad for name, value in model.named_parameters()})


def random_batch(config, seed=0, batch=3, inputs=11, targets=6):
  """Batch of random tokens with padded ends in both inputs and targets."""
  random = np.random.default_rng(seed)
  arrays = {}
  for name, length in (("inputs", inputs), ("targets", targets)):
    tokens = random.integers(2, config.vocab_size, (batch, length))
    lengths = random.integers(2, length + 1, batch)
    lengths[0] = length
    arrays[name] = (tokens * (np.arange(length) < lengths[:, None])).astype(np.int32)
  arrays["weights"] = (arrays["targets"] != 0).astype(np.float32)
  return arrays
