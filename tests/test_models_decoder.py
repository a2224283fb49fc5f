"""Llama and Mistral against PyTorch transformers: logits, loss, gradients, padding, packing,
caches, trees.
"""

import dataclasses
import functools

import hf_llama
import hf_t5
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from factshock.models import decoder, layers
from factshock.runtime.errors import UserError
from factshock.training import train_step

SMALL = decoder.LlamaConfig(
  vocab_size=60, d_model=32, d_ff=40, num_heads=4, num_kv_heads=4, d_kv=8, layers=2
)
VARIANTS = {
  "llama 2": SMALL,
  "grouped": dataclasses.replace(SMALL, num_kv_heads=2, d_kv=12),
  "tied, one key head": dataclasses.replace(SMALL, num_kv_heads=1, tie_head=True),
  "llama 3 positions": dataclasses.replace(
    SMALL, rope_theta=500.0, rope_scaling=(8.0, 1.0, 4.0, 16)
  ),
  "mistral": dataclasses.replace(SMALL, num_kv_heads=2, sliding_window=4, layers=3),
}

forward = hf_t5.quick_jit(decoder.forward, static_argnums=1)


@functools.cache
def pair(name):
  """(config, PyTorch model, our params) of a variant."""
  config = VARIANTS[name]
  model = hf_llama.peer(config)
  return config, model, hf_llama.params(config, model.state_dict())


def relative(got, expected):
  return np.abs(got - expected).max() / np.abs(expected).max()


def their_logits(model, tokens):
  """Logits of transformers; its positions are told, as it would count left padding."""
  import torch

  used = tokens != decoder.PAD
  positions = np.maximum(np.cumsum(used, axis=1) - 1, 0)
  return model(
    input_ids=torch.tensor(np.maximum(tokens, 0)).long(),
    attention_mask=torch.tensor(used).long(),
    position_ids=torch.tensor(positions).long(),
    use_cache=False,
  ).logits


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name, left):
  config, model, params = pair(name)
  tokens = hf_llama.tokens(config, left=left)
  used = tokens != decoder.PAD
  expected = their_logits(model, tokens).detach().numpy()
  assert relative(np.asarray(forward(params, config, tokens))[used], expected[used]) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_every_gradient_equal_transformers(name):
  import torch

  config, model, params = pair(name)
  tokens = hf_llama.tokens(config)
  weights = (tokens != decoder.PAD).astype(np.float32)
  weights[:, 0] = 0
  weights[1] *= np.arange(tokens.shape[1]) % 2  # the loss on some tokens only
  model.zero_grad()
  log_p = torch.log_softmax(their_logits(model, tokens)[:, :-1], dim=-1)
  nll = -torch.gather(log_p, 2, torch.tensor(np.maximum(tokens, 0)).long()[:, 1:, None])[..., 0]
  expected = (nll * torch.tensor(weights[:, 1:])).sum()
  expected.backward()
  of = hf_t5.quick_jit(
    jax.value_and_grad(functools.partial(train_step.loss_fn, model_config=config), has_aux=True)
  )
  (loss, sums), gradients = of(params, batch={"tokens": tokens, "weights": weights})
  assert (
    relative(np.asarray(loss), expected.item()) < 1e-5 and sums["tokens"] == weights[:, 1:].sum()
  )
  jax.tree.map(
    lambda got, theirs: np.testing.assert_array_less(relative(np.asarray(got), theirs), 1e-4),
    gradients,
    hf_llama.gradients(config, model),
  )


@pytest.mark.parametrize("name", ["llama 3 positions", "mistral"])
def test_packed_rows_give_the_logits_of_each_alone(name):
  config, _, params = pair(name)
  parts = [
    np.random.default_rng(n).integers(3, config.vocab_size, size).astype(np.int32)
    for n, size in enumerate((5, 1, 6))
  ]
  tokens = np.concatenate([*parts, [decoder.PAD] * 2])[None]
  segments = np.repeat([1, 2, 3, 0], [5, 1, 6, 2])[None]
  packed = np.asarray(forward(params, config, tokens, segments_BxS=segments))[0]
  for number, part in enumerate(parts, 1):
    alone = np.asarray(forward(params, config, part[None]))[0]
    np.testing.assert_allclose(packed[segments[0] == number], alone, rtol=1e-4, atol=1e-5)


def test_padding_tokens_change_nothing():
  config, _, params = pair("grouped")
  tokens = hf_llama.tokens(config)
  used = tokens != decoder.PAD
  longer = np.pad(tokens, ((0, 0), (0, 3)), constant_values=decoder.PAD)
  np.testing.assert_allclose(
    np.asarray(forward(params, config, longer))[:, :12][used],
    np.asarray(forward(params, config, tokens))[used],
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize("name, room", [("grouped", 1 << 30), ("mistral", 1 << 30), ("grouped", 0)])
def test_steps_with_a_cache_equal_the_whole(name, room, monkeypatch):
  monkeypatch.setattr(layers, "UNSTACKED_BYTES", room)
  config, _, params = pair(name)
  prompt = hf_llama.tokens(config, length=7, left=True)
  more = np.random.default_rng(1).integers(3, config.vocab_size, (3, 5)).astype(np.int32)
  whole = np.asarray(forward(params, config, np.concatenate([prompt, more], axis=1)))
  cache, token = hf_t5.quick_jit(decoder.start, static_argnums=(1, 3))(params, config, prompt, 6)
  cache = dict(decoder.unstack(cache), weights=decoder.layer_weights(params))
  one = hf_t5.quick_jit(decoder.step, static_argnums=1)
  for place in range(6):
    logits, cache = one(params, config, cache, token)
    np.testing.assert_allclose(logits, whole[:, 6 + place], rtol=1e-4, atol=1e-4)
    token = more[:, place] if place < 5 else None
  assert int(cache["step"]) == 6


@pytest.mark.parametrize("name", ["grouped", "mistral"])
def test_a_tree_gives_the_logits_of_each_path(name):
  config, _, params = pair(name)
  prompt = hf_llama.tokens(config, length=6, left=True)
  paths = [(), (7,), (7, 8), (7, 9), (11,), (7, 8, 12), (7, 8, 12, 5), (7, 8, 12, 5, 6)]
  tokens = np.array([path[-1] if path else 0 for path in paths], np.int32)
  distance = np.array(
    [[len(a) - len(b) if a[: len(b)] == b else -1 for b in paths] for a in paths], np.int32
  )
  cache, first = decoder.start(params, config, prompt, 1)
  hidden = hf_t5.quick_jit(decoder.hidden_of_tree, static_argnums=1)(
    params, config, cache, first, tokens, distance
  )
  logits = np.asarray(decoder.logits_of_tree(params, config, hidden))
  for number, path in enumerate(paths):
    extended = np.concatenate([prompt, np.tile(np.array(path, np.int32), (3, 1))], axis=1)
    whole = np.asarray(
      forward(
        params, config, np.pad(extended, ((0, 0), (5 - len(path), 0)), constant_values=decoder.PAD)
      )
    )[:, -1]
    np.testing.assert_allclose(logits[:, number], whole, rtol=1e-4, atol=1e-4)


def test_rows_of_a_cache_are_taken_in_order():
  config, _, params = pair("mistral")
  prompt = hf_llama.tokens(config, length=6, left=True)
  cache, first = decoder.start(params, config, prompt, 2)
  cache = dict(decoder.unstack(cache), weights=decoder.layer_weights(params))
  rows = jnp.array([2, 0, 2])
  whole, _ = decoder.step(params, config, cache, first)
  taken, _ = decoder.step(params, config, decoder.take_rows(cache, rows), first[rows])
  np.testing.assert_allclose(taken, whole[rows], rtol=1e-5, atol=1e-5)


def test_scanned_layers_equal_unrolled_ones():
  config, _, params = pair("mistral")
  tokens = hf_llama.tokens(config)
  np.testing.assert_allclose(
    forward(params, dataclasses.replace(config, unroll=True), tokens),
    forward(params, config, tokens),
    rtol=1e-4,
    atol=1e-5,
  )


def test_bfloat16_is_as_near_as_transformers_own():
  import torch

  config, model, params = pair("grouped")
  tokens = hf_llama.tokens(config)
  used = tokens != decoder.PAD
  exact = their_logits(model, tokens).detach().numpy()[used]
  narrow = dataclasses.replace(config, dtype="bfloat16")
  ours = np.asarray(forward(params, narrow, tokens), np.float32)[used]
  theirs = (
    their_logits(hf_llama.peer(config).to(torch.bfloat16), tokens).detach().float().numpy()[used]
  )
  assert np.abs(ours - exact).mean() < 1.5 * np.abs(theirs - exact).mean()


@pytest.mark.parametrize(
  "change, expected",
  [
    (dict(num_kv_heads=3), "num_kv_heads: expected a divisor of num_heads"),
    (dict(d_kv=7), "d_kv: expected an even"),
    (dict(layers=0), "layers: expected a whole number from 1 to 10,000"),
    (dict(sliding_window=0), "sliding_window"),
    (dict(dtype="float16"), "dtype: expected one of"),
    (dict(rope_scaling=(1.0, 2.0)), "rope_scaling"),
  ],
)
def test_values_out_of_range(change, expected):
  with pytest.raises(UserError, match=expected):
    dataclasses.replace(SMALL, **change)
