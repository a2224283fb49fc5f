"""Family of its own in one file: a decoder of one layer over the mean of the tokens before.

It differs from Llama and T5 in its config, parameters, cache and tensors; tests put this folder
beside factshock/models.
"""

import dataclasses

import jax
import jax.numpy as jnp

from factshock.models import layers, model_config
from factshock.models.families import Family
from factshock.models.formats.tensors import HuggingFaceFormat, Tensor
from factshock.runtime.settings import COUNT, check_fields, setting

PAD = -1


@dataclasses.dataclass(frozen=True)
class BagConfig:
  vocab_size: int = setting(COUNT)
  d_model: int = setting(COUNT)
  dtype: str = setting(model_config.DTYPE, default="float32")
  param_dtype: str = setting(model_config.DTYPE, default="float32")

  def __post_init__(self):
    check_fields(self, "model")


def init(config, key):
  keys = jax.random.split(key, 3)
  size = config.d_model
  dtype = jnp.dtype(config.param_dtype)
  return {
    "embedding": jax.random.normal(keys[0], (config.vocab_size, size), dtype),
    "mixing": {"inner": jax.random.normal(keys[1], (size, 2 * size), dtype) * size**-0.5},
    "head": jax.random.normal(keys[2], (config.vocab_size, 2 * size), dtype) * 0.1,
  }


def _embed(params, tokens):
  return jnp.where((tokens != PAD)[..., None], params["embedding"][jnp.maximum(tokens, 0)], 0)


def _mix(params, total, count):
  return jnp.tanh(total / jnp.maximum(1, count)[..., None] @ params["mixing"]["inner"])


def hidden(params, config, batch, key=None):
  tokens = batch["tokens"]
  total = jnp.cumsum(_embed(params, tokens), axis=1)
  return _mix(params, total, jnp.cumsum(tokens != PAD, axis=1))


def head(params, config, hidden_BxTxD):
  return (hidden_BxTxD @ params["head"].T).astype(jnp.float32)


def observe(params, config, *arguments):
  return {}  # it has no attention


def start(params, config, inputs_BxS, length, packed=None):
  before = inputs_BxS[:, :-1]
  cache = {
    "total": _embed(params, before).sum(axis=1),
    "count": (before != PAD).sum(axis=1),
  }
  return cache, inputs_BxS[:, -1]


def step(params, config, cache, tokens_B):
  total = cache["total"] + _embed(params, tokens_B)
  count = cache["count"] + 1
  logits = head(params, config, _mix(params, total, count))
  return logits, dict(cache, total=total, count=count)


def hidden_of_tree(params, config, cache, first_B, tokens, distance):
  tokens_BxM, distance_BxMxM = layers.tree_of_rows(first_B, tokens, distance)
  within = (distance_BxMxM >= 0).astype(jnp.float32)
  within = jnp.broadcast_to(within, (*tokens_BxM.shape, within.shape[-1]))
  total = cache["total"][:, None] + jnp.einsum("bmn,bnd->bmd", within, _embed(params, tokens_BxM))
  return _mix(params, total, cache["count"][:, None] + within.sum(axis=2))


def take_rows(cache, rows_R):
  return dict(cache, total=cache["total"][rows_R], count=cache["count"][rows_R])


def read_config(values, path, dtype):
  return BagConfig(values["vocab_size"], values["width"], dtype=dtype)


def write_config(config):
  return {
    "model_type": "bag_of_words",
    "architectures": ["BagOfWords"],
    "vocab_size": config.vocab_size,
    "width": config.d_model,
  }


def tensors(config):
  size = config.d_model
  return [
    Tensor("words.weight", "embedding", None, False, (config.vocab_size, size)),
    Tensor("inner.weight", "mixing/inner", None, True, (2 * size, size)),
    Tensor("out.weight", "head", None, False, (config.vocab_size, 2 * size)),
  ]


FAMILY = Family(
  name="bag_of_words",
  config_type=BagConfig,
  decoder_only=True,
  init=init,
  hidden=hidden,
  head=head,
  observe=observe,
  start=start,
  layer_weights=lambda params: None,
  unstack=lambda cache: cache,
  step=step,
  hidden_of_tree=hidden_of_tree,
  logits_of_tree=head,
  take_rows=take_rows,
  reorder=take_rows,
  huggingface=HuggingFaceFormat(
    supported="bag_of_words",
    model_types=("bag_of_words",),
    task_type="CAUSAL_LM",
    read_config=read_config,
    write_config=write_config,
    tensors=tensors,
  ),
)
