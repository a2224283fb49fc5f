"""T5: parity with PyTorch transformers, packing, caching, scanning, dropout, initial scales, bad
input.
"""

import dataclasses
import functools

import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from factshock.models import (
  attention,
  decoder,
  decoder_modules,
  families,
  layers,
  t5,
  t5_modules,
)
from factshock.runtime.errors import UserError
from factshock.training import train_step

SMALL = t5.T5Config(
  vocab_size=67,
  d_model=24,
  d_ff=40,
  num_heads=3,
  d_kv=16,
  encoder_layers=3,
  decoder_layers=2,
  relative_buckets=8,
  relative_max_distance=20,
)
V1_0 = dataclasses.replace(SMALL, feed_forward="relu", tie_head=True)
SILU = dataclasses.replace(SMALL, feed_forward="gated-silu", encoder_layers=1, decoder_layers=3)
UMT5 = dataclasses.replace(SMALL, bias_in_every_layer=True)
BYT5 = dataclasses.replace(SMALL, vocab_size=384, encoder_layers=3, decoder_layers=1)

forward, encode, decode, step = (
  hf_t5.quick_jit(function, static_argnums=1)
  for function in (t5.forward, t5.encode, t5.decode, t5.step)
)
loss_and_gradient = hf_t5.quick_jit(
  jax.value_and_grad(train_step.loss_fn, has_aux=True), static_argnums=1
)


@functools.cache
def _init(config):
  return t5.init(config, jax.random.key(0))


def _relative(ours, theirs):
  return np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max()


def _torch_run(config, batch, kind=None):
  import torch

  model = hf_t5.peer(config, kind=kind)
  targets = torch.tensor(batch["targets"], dtype=torch.long)
  out = model(
    input_ids=torch.tensor(batch["inputs"], dtype=torch.long),
    attention_mask=torch.tensor(batch["inputs"] != 0),
    labels=targets.masked_fill(targets == 0, -100),
    decoder_input_ids=torch.tensor(np.asarray(t5.shift_right(batch["targets"])), dtype=torch.long),
  )
  out.loss.backward()
  return model, out.loss.item(), out.logits.detach().numpy()


@pytest.mark.parametrize(
  "config, kind",
  [(SMALL, None), (V1_0, None), (SILU, None), (SMALL, "MT5"), (UMT5, None), (BYT5, None)],
  ids=["v1.1", "v1.0", "gated-silu", "mt5", "umt5", "byt5"],
)
def test_logits_loss_and_every_gradient_equal_transformers(config, kind):
  batch = hf_t5.random_batch(config)
  model, loss, logits = _torch_run(config, batch, kind)
  params = hf_t5.params(config, model.state_dict())
  real = batch["targets"] != 0
  ours = forward(params, config, batch["inputs"], batch["targets"])
  assert _relative(np.asarray(ours)[real], logits[real]) < 1e-5
  (loss_sum, sums), gradients = loss_and_gradient(params, config, batch, None)
  assert loss_sum / sums["tokens"] == pytest.approx(loss, rel=1e-5)
  gradients = jax.tree.map(lambda x: x / sums["tokens"], gradients)
  errors = jax.tree.map(_relative, gradients, hf_t5.gradients(config, model))
  assert max(jax.tree.leaves(errors)) < 1e-4, errors


def test_bfloat16_is_as_near_to_float32_as_that_of_transformers():
  import torch

  batch = hf_t5.random_batch(SMALL)
  model, _, exact = _torch_run(SMALL, batch)
  params = hf_t5.params(SMALL, model.state_dict())
  real = batch["targets"] != 0
  half = dataclasses.replace(SMALL, dtype="bfloat16")
  ours = np.asarray(forward(params, half, batch["inputs"], batch["targets"]))
  with torch.no_grad():
    theirs = model.to(torch.bfloat16)(
      input_ids=torch.tensor(batch["inputs"], dtype=torch.long),
      attention_mask=torch.tensor(batch["inputs"] != 0),
      decoder_input_ids=torch.tensor(
        np.asarray(t5.shift_right(batch["targets"])), dtype=torch.long
      ),
    ).logits
  error = np.sqrt(np.mean((ours - exact)[real] ** 2))
  assert ours.dtype == np.float32
  assert error < 1.5 * np.sqrt(np.mean((theirs.float().numpy() - exact)[real] ** 2))
  assert error < 0.02 * np.sqrt(np.mean(exact[real] ** 2))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_gradients_of_a_frequent_token_are_added_up_in_float32(family):
  if family == "t5":
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    module = t5_modules.T5(config)
  else:
    config = decoder.LlamaConfig(
      vocab_size=60,
      d_model=32,
      d_ff=40,
      num_heads=4,
      num_kv_heads=2,
      d_kv=8,
      layers=2,
      dtype="bfloat16",
    )
    module = decoder_modules.Llama(config)
  params = families.of(config).init(config, jax.random.key(0))
  tokens = jnp.full((1, 1000), 3, jnp.int32)

  def total(params):
    embedded = module.apply({"params": params}, tokens, method="_embed")
    return embedded.astype(jnp.float32).sum()

  gradient_VxD = jax.grad(total)(params)["embedding"]
  np.testing.assert_array_equal(gradient_VxD[3], 1000)  # of bfloat16 additions: 256


@pytest.mark.slow
def test_gradients_in_bfloat16_are_near_those_in_float32():
  batch = hf_t5.random_batch(SMALL)
  params = _init(SMALL)
  _, exact = loss_and_gradient(params, SMALL, batch, None)
  _, rough = loss_and_gradient(params, dataclasses.replace(SMALL, dtype="bfloat16"), batch, None)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rough))
  distance = jax.tree.map(lambda a, b: jnp.linalg.norm(a - b) / jnp.linalg.norm(b), rough, exact)
  assert max(jax.tree.leaves(distance)) < 0.1, distance


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets,max_distance", [(32, 128), (8, 20), (16, 300)])
def test_buckets_equal_those_of_transformers_at_every_offset(bidirectional, buckets, max_distance):
  import torch
  from transformers.models.t5.modeling_t5 import T5Attention

  offsets = np.arange(-1500, 1501)
  theirs = T5Attention._relative_position_bucket(
    torch.tensor(offsets), bidirectional, buckets, max_distance
  )
  ours = attention.relative_buckets(
    offsets, bidirectional=bidirectional, buckets=buckets, max_distance=max_distance
  )
  np.testing.assert_array_equal(ours, theirs.numpy())


@settings(deadline=None, max_examples=20)
@given(strategies.integers(1, 9), strategies.integers(1, 9))
def test_bias_matrix_lays_offsets_along_the_diagonals(queries, keys):
  offsets = attention.matrix_offsets(queries, keys)
  # Jitted, as each of its operations would be compiled for each shape.
  bias_matrix = jax.jit(attention.bias_matrix, static_argnums=(1, 2))
  matrix = bias_matrix(jnp.asarray(offsets, jnp.float32)[:, None], queries, keys)
  np.testing.assert_array_equal(matrix[0, 0], np.arange(keys)[None] - np.arange(queries)[:, None])


def _pack(batch, rows):
  """Packs the examples of a batch, `rows` lists of example numbers, into one row each."""
  packed = {}
  for name, segments in (("inputs", "input_segments"), ("targets", "target_segments")):
    tokens = [[batch[name][i][batch[name][i] != 0] for i in row] for row in rows]
    length = max(sum(map(len, row)) for row in tokens) + 2
    packed[name], packed[segments] = np.zeros((2, len(rows), length), np.int32)
    for r, row in enumerate(tokens):
      filled = np.concatenate(row)
      packed[name][r, : len(filled)] = filled
      packed[segments][r, : len(filled)] = np.repeat(
        np.arange(1, len(row) + 1), [len(part) for part in row]
      )
  packed["weights"] = (packed["target_segments"] != 0).astype(np.float32)
  return packed


@pytest.mark.parametrize("config", [SMALL, UMT5], ids=["v1.1", "umt5"])
def test_packed_rows_give_the_logits_and_gradients_of_unpacked_ones(config):
  batch = hf_t5.random_batch(config)
  packed = _pack(batch, [[0, 2], [1]])
  params = _init(config)
  apart = np.asarray(forward(params, config, batch["inputs"], batch["targets"]))
  together = np.asarray(
    forward(
      params,
      config,
      packed["inputs"],
      packed["targets"],
      input_segments=packed["input_segments"],
      target_segments=packed["target_segments"],
    )
  )
  where = {0: (0, 1), 2: (0, 2), 1: (1, 1)}
  for example, (row, segment) in where.items():
    np.testing.assert_allclose(
      together[row][packed["target_segments"][row] == segment],
      apart[example][batch["targets"][example] != 0],
      atol=2e-5,
    )
  gradients = [loss_and_gradient(params, config, data, None)[1] for data in (packed, batch)]
  assert max(jax.tree.leaves(jax.tree.map(_relative, *jax.tree.map(np.asarray, gradients)))) < 1e-4


def test_padding_changes_nothing():
  batch = hf_t5.random_batch(SMALL)
  params = _init(SMALL)
  wide = {name: np.pad(batch[name], ((0, 0), (0, 3))) for name in ("inputs", "targets")}
  np.testing.assert_allclose(
    forward(params, SMALL, wide["inputs"], wide["targets"])[:, :-3],
    forward(params, SMALL, batch["inputs"], batch["targets"]),
    atol=2e-5,
  )


@pytest.mark.parametrize(
  "config, room",
  [
    (SMALL, 1 << 30),
    (SMALL, 0),
    (V1_0, 1 << 30),
    (dataclasses.replace(SMALL, dtype="bfloat16"), 1 << 30),
    (UMT5, 1 << 30),
    (UMT5, 0),
  ],
  ids=["v1.1", "too large for a copy", "v1.0", "bfloat16", "umt5", "umt5, too large"],
)
def test_cached_decoding_equals_teacher_forcing(config, room, monkeypatch):
  monkeypatch.setattr(layers, "UNSTACKED_BYTES", room)
  batch = hf_t5.random_batch(config)
  params = _init(config)
  expected = forward(params, config, batch["inputs"], batch["targets"])
  encoded = encode(params, config, batch["inputs"])
  tokens = np.asarray(t5.shift_right(batch["targets"]))
  np.testing.assert_allclose(
    decode(params, config, encoded, batch["inputs"], tokens), expected, atol=2e-5
  )
  cache, first = t5.start(params, config, batch["inputs"], 9)
  np.testing.assert_array_equal(first, tokens[:, 0])
  cache = dict(t5.unstack(cache), weights=t5.layer_weights(params))
  assert (cache["weights"] is None) == (room == 0)
  for position in range(tokens.shape[1]):
    logits, cache = step(params, config, cache, tokens[:, position])
    np.testing.assert_allclose(
      logits, expected[:, position], atol=2e-5 if config.dtype == "float32" else 0.1
    )


@pytest.mark.parametrize("config", [SMALL, UMT5], ids=["v1.1", "umt5"])
def test_scanned_layers_equal_unrolled_ones(config):
  batch = hf_t5.random_batch(config)
  unrolled = dataclasses.replace(config, unroll=True)
  params = _init(config)
  jax.tree.map(np.testing.assert_array_equal, params, _init(unrolled))
  runs = [loss_and_gradient(params, each, batch, None)[1] for each in (config, unrolled)]
  assert max(jax.tree.leaves(jax.tree.map(_relative, *jax.tree.map(np.asarray, runs)))) < 1e-5


def test_dropout_follows_its_key_and_is_off_without_one():
  config = dataclasses.replace(SMALL, dropout=0.3)
  batch = hf_t5.random_batch(config)
  params = _init(config)
  run = functools.partial(forward, params, config, batch["inputs"], batch["targets"])
  np.testing.assert_array_equal(run(), run())
  np.testing.assert_array_equal(run(), forward(params, SMALL, batch["inputs"], batch["targets"]))
  one, again, other = (np.asarray(run(key=jax.random.key(seed))) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, again)
  assert np.abs(one - other).max() > 0.1 and np.abs(one - np.asarray(run())).max() > 0.1


def test_dropout_differs_by_layer_and_keeps_the_mean():
  import flax.linen as nn

  part = layers.Part(dataclasses.replace(SMALL, dropout=0.25), True)
  dropped = nn.apply(lambda module: module.drop(jnp.ones((200, 200))), part)(
    {}, rngs={"dropout": jax.random.key(0)}
  )
  assert float(jnp.mean(dropped)) == pytest.approx(1, abs=0.02)
  assert set(np.unique(dropped).round(4).tolist()) == {0.0, np.float32(1.3333).item()}


def test_initial_scales_are_those_of_t5():
  config = dataclasses.replace(SMALL, d_model=96, d_ff=128, num_heads=4, d_kv=32, vocab_size=300)
  params = _init(config)
  layer = params["decoder"]["layers"]
  expected = [
    (params["embedding"], 1),
    (params["head"], 96**-0.5),
    (layer["feed_forward"]["down"], 128**-0.5),
    (layer["feed_forward"]["up"], 96**-0.5),
    (layer["cross_attention"]["query"], (96 * 32) ** -0.5),
    (layer["self_attention"]["key"], 96**-0.5),
    (layer["self_attention"]["out"], 128**-0.5),
  ]
  for array, scale in expected:
    assert float(jnp.std(array)) == pytest.approx(scale, rel=0.05)
  assert float(jnp.std(params["decoder"]["relative_bias"])) == pytest.approx(96**-0.5, rel=0.3)
  assert np.all(np.asarray(params["encoder"]["final_norm"]["scale"]) == 1)
  assert not np.array_equal(layer["feed_forward"]["up"][0], layer["feed_forward"]["up"][1])


def test_one_bias_in_every_layer_computes_what_one_for_all_does():
  batch = hf_t5.random_batch(SMALL)
  shared = _init(SMALL)
  own = jax.tree.map(lambda leaf: leaf, shared)
  for side, depth in (("encoder", 3), ("decoder", 2)):
    own[side] = dict(shared[side], layers=dict(shared[side]["layers"]))
    bias = own[side].pop("relative_bias")
    own[side]["layers"]["relative_bias"] = jnp.stack([bias] * depth)
  assert jax.tree.structure(own) == jax.tree.structure(_init(UMT5))
  expected = np.asarray(forward(shared, SMALL, batch["inputs"], batch["targets"]))
  got = np.asarray(forward(own, UMT5, batch["inputs"], batch["targets"]))
  assert _relative(got, expected) < 1e-6
  own["decoder"]["layers"]["relative_bias"] *= np.array([1, 9])[:, None, None]  # of the last alone
  other = np.asarray(forward(own, UMT5, batch["inputs"], batch["targets"]))
  assert _relative(other, expected) > 1e-3


def test_params_are_a_plain_dict_with_stacked_layers_in_the_asked_dtype():
  params = t5.init(dataclasses.replace(SMALL, param_dtype="bfloat16"), jax.random.key(0))
  assert type(params) is dict and type(params["encoder"]["layers"]) is dict
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
  for side, depth in (("encoder", 3), ("decoder", 2)):
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params[side]["layers"])} == {depth}


@pytest.mark.parametrize(
  "change,words",
  [
    ({"feed_forward": "swish"}, "'gated-gelu', 'gated-silu', 'relu'"),
    ({"dtype": "float16"}, "'float32', 'bfloat16'"),
    ({"d_model": 0}, "d_model"),
    ({"dropout": 1.0}, "dropout"),
    ({"relative_buckets": 5}, "even"),
    ({"relative_max_distance": 4}, "relative_max_distance"),
  ],
)
def test_values_out_of_range_are_refused(change, words):
  with pytest.raises(UserError, match=words):
    dataclasses.replace(SMALL, **change)


def test_one_kind_of_segments_alone_is_refused():
  batch = hf_t5.random_batch(SMALL)
  with pytest.raises(ValueError, match="together"):
    t5.forward(None, SMALL, batch["inputs"], batch["targets"], input_segments=batch["inputs"])
