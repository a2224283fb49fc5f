"""What a query attends to, and its direct share of a logit: PyTorch's attention and hooks on its
parts as the oracle.
"""

import dataclasses
import functools
from typing import NamedTuple

import hf_llama
import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.models import decoder, families, layers, lora, t5

SIZES = dict(vocab_size=50, d_model=32, d_ff=40, d_kv=8)
CONFIGS = {
  "t5_v1_1": t5.T5Config(
    num_heads=3,
    encoder_layers=2,
    decoder_layers=3,
    relative_buckets=8,
    relative_max_distance=16,
    **SIZES,
  ),
  "t5_v1_0": t5.T5Config(
    num_heads=2, encoder_layers=3, decoder_layers=2, feed_forward="relu", tie_head=True, **SIZES
  ),
  "t5_umt5": t5.T5Config(
    num_heads=2, encoder_layers=2, decoder_layers=2, bias_in_every_layer=True, **SIZES
  ),
  "llama": decoder.LlamaConfig(num_heads=4, num_kv_heads=2, layers=3, **SIZES),
  "mistral": decoder.LlamaConfig(num_heads=6, num_kv_heads=2, layers=2, sliding_window=5, **SIZES),
}
BLANK = 49
ROWS, LENGTH = 3, 12


class Oracle(NamedTuple):
  """What PyTorch computes at the query: rows B, layers N; all of the last site, but `weights`."""

  weights: dict  # site -> [N, B, H, S]
  values: list  # of each layer [B, S, H, K]
  outs: list  # of each layer [H, K, D]
  attended: list  # of each layer [B, D], what its attention adds to the stream
  added: list  # [B, D], all else that is added to the stream
  stream: np.ndarray  # [B, D]
  logits: np.ndarray  # [B, V]
  norm: np.ndarray  # [D]
  head: np.ndarray  # [V, D]


class Case(NamedTuple):
  config: object
  model: object
  params: dict
  tokens: np.ndarray
  place: np.ndarray
  marked: np.ndarray
  gold: np.ndarray
  among: np.ndarray


@functools.cache
def case(name):
  """A random model, whose last layer's feed-forward adds nothing, and a query of each row, of
  different lengths.
  """
  import torch

  config, random = CONFIGS[name], np.random.default_rng(1)
  tokens = random.integers(3, BLANK, (ROWS, LENGTH)).astype(np.int32)
  sizes = np.array([LENGTH, 7, 9])
  used = np.arange(LENGTH)[None] < sizes[:, None]
  if name.startswith("t5"):
    model, place = hf_t5.peer(config), np.array([4, 6, 0], np.int32)
    tokens[np.arange(ROWS), place] = BLANK
    tokens, marked = np.where(used, tokens, 0), np.zeros_like(used)
    model.set_attn_implementation("eager")  # else it gives no weights
    last = model.decoder.block[-1].layer[2].DenseReluDense.wo
  else:
    model, place = hf_llama.peer(config), np.array([11, 6, 8], np.int32)
    tokens, marked = np.where(used, tokens, decoder.PAD), np.zeros_like(used)
    last = model.model.layers[-1].mlp.down_proj
  marked[0, 8:10], marked[1, 3], marked[2, 5:9] = True, True, True
  with torch.no_grad():
    last.weight.zero_()
  params = (hf_t5 if name.startswith("t5") else hf_llama).params(config, model.state_dict())
  among = np.zeros((ROWS, config.vocab_size), bool)
  gold = random.integers(3, BLANK, ROWS).astype(np.int32)
  for row in range(ROWS):
    among[row, random.choice(BLANK, 6, replace=False)] = True
  among[np.arange(ROWS), gold] = True
  return Case(config, model, params, tokens.astype(np.int32), place, marked, gold, among)


@functools.partial(hf_t5.quick_jit, static_argnums=1)
def run(params, config, *arguments):
  return families.of(config).observe(params, config, *arguments)


def observe(name, params=None, **changes):
  it = case(name)
  return run(
    it.params if params is None else params,
    dataclasses.replace(it.config, **changes),
    it.tokens,
    it.place,
    it.marked,
    it.gold,
    it.among,
  )


def kept(module, store, part=lambda output: output):
  return module.register_forward_hook(
    lambda _, inputs, output: store.append(
      part(output[0] if isinstance(output, tuple) else output).detach()
    )
  )


def numpy(tensors):
  return [np.asarray(tensor) for tensor in tensors]


def run_t5(model, it, silenced=lambda value, layer: value):
  """Oracle of a T5; `silenced` alters the values [B, S, H, K] of a layer's cross-attention."""
  import torch

  heads, rows = it.config.num_heads, np.arange(ROWS)
  decoder, values, attended, added, stream = model.decoder, [], [], [], []
  at_query = lambda output: output[:, 1]
  hooks = [
    decoder.final_layer_norm.register_forward_pre_hook(
      lambda _, inputs: stream.append(inputs[0][:, 1].detach())
    )
  ]
  for number, block in enumerate(decoder.block):
    cross = block.layer[1].EncDecAttention

    def value_hook(_, inputs, output, number=number):
      value = silenced(output.detach().reshape(ROWS, LENGTH, heads, -1), number)
      values.append(value)
      return value.reshape(ROWS, LENGTH, -1)

    hooks += [
      cross.v.register_forward_hook(value_hook),
      kept(cross, attended, at_query),
      kept(block.layer[0].SelfAttention, added, at_query),
      kept(block.layer[2].DenseReluDense, added, at_query),
    ]
  tokens = torch.tensor(it.tokens.astype(np.int64))
  inputs = torch.stack([torch.zeros(ROWS, dtype=torch.int64), tokens[rows, it.place]], dim=1)
  with torch.no_grad():
    found = model(
      input_ids=tokens,
      attention_mask=(tokens != 0).long(),
      decoder_input_ids=inputs,
      output_attentions=True,
    )
    added.append(model.shared(inputs)[:, 1])
  for hook in hooks:
    hook.remove()
  own = np.stack([array[rows, :, it.place] for array in numpy(found.encoder_attentions)])
  cross = np.stack([array[:, :, 1] for array in numpy(found.cross_attentions)])
  scale = it.config.d_model**-0.5 if it.config.tie_head else 1.0
  head = (model.shared if it.config.tie_head else model.lm_head).weight.detach().numpy() * scale
  outs = [
    block.layer[1].EncDecAttention.o.weight.detach().numpy().T.reshape(heads, -1, it.config.d_model)
    for block in decoder.block
  ]
  return Oracle(
    {"encoder": own, "cross": cross},
    numpy(values),
    outs,
    numpy(attended),
    numpy(added),
    np.asarray(stream[0]),
    found.logits[:, 1].numpy(),
    decoder.final_layer_norm.weight.detach().numpy(),
    head,
  )


def run_llama(model, it, silenced=lambda value, layer: value):
  """Oracle of a Llama or Mistral; `silenced` alters the values [B, S, G, K] of a layer."""
  import torch

  rows, used = np.arange(ROWS), it.tokens != decoder.PAD
  values, attended, added, stream = [], [], [], []
  at_query = lambda output: output[rows, it.place]
  hooks = [
    model.model.norm.register_forward_pre_hook(
      lambda _, inputs: stream.append(at_query(inputs[0].detach()))
    )
  ]
  for number, layer in enumerate(model.model.layers):

    def value_hook(_, inputs, output, number=number):
      value = silenced(output.detach().reshape(ROWS, LENGTH, it.config.num_kv_heads, -1), number)
      values.append(value)
      return value.reshape(ROWS, LENGTH, -1)

    hooks += [
      layer.self_attn.v_proj.register_forward_hook(value_hook),
      kept(layer.self_attn, attended, at_query),
      kept(layer.mlp, added, at_query),
    ]
  tokens = torch.tensor(np.where(used, it.tokens, 0).astype(np.int64))
  with torch.no_grad():
    found = model(
      input_ids=tokens, attention_mask=torch.tensor(used.astype(np.int64)), output_attentions=True
    )
    added.append(at_query(model.model.embed_tokens(tokens)))
  for hook in hooks:
    hook.remove()
  shared = it.config.num_heads // it.config.num_kv_heads
  outs = [
    layer.self_attn.o_proj.weight.detach()
    .numpy()
    .T.reshape(it.config.num_heads, -1, it.config.d_model)
    for layer in model.model.layers
  ]
  own = np.stack([array[rows, :, it.place] for array in numpy(found.attentions)])
  return Oracle(
    {"self": own},
    [np.repeat(value, shared, axis=2) for value in numpy(values)],
    outs,
    numpy(attended),
    numpy(added),
    np.asarray(stream[0]),
    found.logits[rows, it.place].numpy(),
    model.model.norm.weight.detach().numpy(),
    model.lm_head.weight.detach().numpy(),
  )


def run_oracle(name, **options):
  it = case(name)
  return (run_t5 if name.startswith("t5") else run_llama)(it.model, it, **options)


@functools.cache
def oracle(name):
  return run_oracle(name)


def difference(name, logits_BxV):
  """That of the gold token and the mean of those among: [B]."""
  it = case(name)
  return np.array(
    [row[gold] - row[among].mean() for row, gold, among in zip(logits_BxV, it.gold, it.among)]
  )


def direct(name, added_BxD):
  """What something added to the stream adds to the difference of logits, the norm's statistic held:
  [B].
  """
  it, found = case(name), oracle(name)
  statistic = 1 / np.sqrt((found.stream**2).mean(axis=-1, keepdims=True) + it.config.epsilon)
  return difference(name, (added_BxD * statistic * found.norm) @ found.head.T)


def close(got, expected, tolerance=2e-5):
  np.testing.assert_allclose(
    got, expected, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(expected).max())
  )


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_those_of_pytorch(name):
  found = observe(name)
  assert found.keys() == oracle(name).weights.keys()
  for site, weights in oracle(name).weights.items():
    np.testing.assert_allclose(found[site].weights, weights, atol=2e-6)
    np.testing.assert_allclose(found[site].weights.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_shares_are_those_of_each_token_by_hand(name):
  """Weight times value through the head's rows of the output projection, key by key."""
  it, by_hand = case(name), oracle(name)
  site = list(by_hand.weights)[-1]
  found = observe(name)[site]
  for number, (value, out) in enumerate(zip(by_hand.values, by_hand.outs)):
    for h in range(it.config.num_heads):
      unweighted_BxS = np.stack(
        [direct(name, value[:, key, h] @ out[h]) for key in range(LENGTH)], axis=1
      )
      weighted_BxS = unweighted_BxS * by_hand.weights[site][number, :, h]
      close(found.marked[number, :, h], np.where(it.marked, weighted_BxS, 0).sum(axis=1), 1e-4)
      close(found.rest[number, :, h], np.where(it.marked, 0, weighted_BxS).sum(axis=1), 1e-4)
      close(
        found.mean[number, :, h],
        [row[marked].mean() for row, marked in zip(unweighted_BxS, it.marked)],
        1e-4,
      )


@pytest.mark.parametrize("name", CONFIGS)
def test_shares_of_all_parts_add_up_to_the_logits(name):
  by_hand = oracle(name)
  found = observe(name)[list(by_hand.weights)[-1]]
  close(
    found.marked.sum(axis=2) + found.rest.sum(axis=2),
    np.stack([direct(name, part) for part in by_hand.attended]),
  )
  others = sum(direct(name, part) for part in by_hand.added)
  total = (found.marked + found.rest).sum(axis=(0, 2)) + others
  close(total, difference(name, by_hand.logits))
  assert np.abs(others).max() > 0.1 and np.abs(total - others).max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_silencing_the_subject_in_a_last_layers_head_takes_its_share_away(name):
  it, before = case(name), oracle(name)
  found, last = observe(name)[list(before.weights)[-1]], len(before.outs) - 1
  groups = getattr(it.config, "num_kv_heads", it.config.num_heads)
  for group in range(groups):

    def silenced(value, layer):
      if layer == last:
        value[..., group, :][it.marked] = 0
      return value

    after = run_oracle(name, silenced=silenced)
    share = found.marked[last].reshape(ROWS, groups, -1)[:, group].sum(axis=1)
    assert np.abs(share).max() > 1e-3
    close(direct(name, before.stream) - direct(name, after.stream), share, 1e-4)


@pytest.mark.parametrize(
  "name, changes",
  [
    (name, changes)
    for name in ("t5_v1_0", "llama")
    for changes in (dict(unroll=True), dict(remat="full"), dict(remat="full", unroll=True))
  ],
)
def test_how_the_layers_are_run_changes_nothing(name, changes):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    observe(name, **changes),
    observe(name),
  )


@pytest.mark.parametrize("name", ["t5_v1_1", "mistral"])
def test_adapters_observe_as_merged_weights_do(name):
  it = case(name)
  adapters = lora.init(it.params, jax.random.key(1), 3, ["query", "value", "out"])
  leaves, structure = jax.tree.flatten(adapters)
  adapters = structure.unflatten(
    [jax.random.normal(jax.random.key(n), leaf.shape) * 0.1 for n, leaf in enumerate(leaves)]
  )
  attached, merged = (
    observe(name, how(it.params, adapters, 2.0)) for how in (lora.attach, lora.merge)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), attached, merged
  )
  site = list(merged)[-1]
  assert np.abs(merged[site].mean - observe(name)[site].mean).max() > 0.05


@pytest.mark.parametrize("name", ["t5_v1_0", "llama"])
def test_bfloat16_is_near_and_bits_are_the_same(name, monkeypatch):
  """Of a model in bfloat16, and of its weights as a CPU holds large ones (layers.bits_on_cpu)."""
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), case(name).params)
  found, exact = observe(name, params, dtype="bfloat16", param_dtype="bfloat16"), observe(name)
  for site, read in exact.items():
    assert all(array.dtype == jnp.float32 for array in found[site])
    np.testing.assert_allclose(found[site].weights, read.weights, atol=0.1)
    np.testing.assert_allclose(found[site].mean, read.mean, atol=0.1 * np.abs(read.mean).max())
  monkeypatch.setattr(layers, "UNSTACKED_BYTES", 0)
  bits = layers.bits_on_cpu(params)
  assert any(leaf.dtype == np.uint16 for leaf in jax.tree.leaves(bits))
  jax.tree.map(
    np.testing.assert_array_equal,
    observe(name, bits, dtype="bfloat16", param_dtype="bfloat16"),
    found,
  )


@pytest.mark.parametrize("name", ["t5_v1_1", "mistral"])
def test_padding_and_batch_mates_change_nothing(name):
  it, found = case(name), observe(name)
  size = int((it.tokens[1] > 0).sum())
  alone = run(
    it.params,
    it.config,
    it.tokens[1:2, :size],
    it.place[1:2],
    it.marked[1:2, :size],
    it.gold[1:2],
    it.among[1:2],
  )
  for site, read in alone.items():
    for got, expected in zip(read, found[site]):
      expected = expected[:, 1:2, ..., :size] if expected.shape[-1] == LENGTH else expected[:, 1:2]
      np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert not np.asarray(found[site].weights)[:, 1, :, size:].any()
