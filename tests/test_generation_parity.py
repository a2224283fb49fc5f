"""Greedy and beam decoding give the tokens of transformers' `generate`: 200 prompts of mixed
lengths a model.
"""

import functools

import hf_llama
import hf_t5
import numpy as np
import pytest

from factshock.answering import batches, beams, sampling
from factshock.checkpoints.loading import LoadedModel
from factshock.models import decoder, t5

T5 = dict(
  vocab_size=60, d_model=24, d_ff=40, num_heads=3, d_kv=8, encoder_layers=2, decoder_layers=2
)
LLAMA = dict(vocab_size=60, d_model=24, d_ff=40, num_heads=4, num_kv_heads=4, d_kv=8, layers=2)
CONFIGS = {
  "t5 v1.1": t5.T5Config(**T5),
  "t5 v1.0": t5.T5Config(**T5, feed_forward="relu", tie_head=True),
  "umt5": t5.T5Config(**T5, bias_in_every_layer=True),
  "llama": decoder.LlamaConfig(**LLAMA),
  "llama 3": decoder.LlamaConfig(
    **{**LLAMA, "num_kv_heads": 2}, rope_theta=5e5, rope_scaling=(8.0, 1.0, 4.0, 16), tie_head=True
  ),
  "mistral": decoder.LlamaConfig(**{**LLAMA, "num_kv_heads": 1}, sliding_window=5),
}
ENDS = [1, 7, 11]
LENGTH = 9


def prompts_of(config):
  random = np.random.default_rng(3)
  return [
    random.integers(12, config.vocab_size, random.integers(1, 31)).tolist() for _ in range(200)
  ]


@functools.cache
def models(name):
  """(transformers' model, our params), weights large enough that answers differ from prompt to
  prompt.
  """
  config = CONFIGS[name]
  kind = hf_t5 if isinstance(config, t5.T5Config) else hf_llama
  model = kind.peer(config)
  for key, value in model.named_parameters():
    tied_embedding = config.tie_head and value.shape[0] == config.vocab_size
    value.data.mul_(1 if "norm" in key else 0.2 if tied_embedding else 1.5)
  return model, kind.params(config, model.state_dict())


def theirs(name, **options):
  """transformers' answers, one row of tokens a prompt, and with beams their scores."""
  import torch

  config, (model, _), prompts = CONFIGS[name], models(name), prompts_of(CONFIGS[name])
  longest = max(map(len, prompts))
  is_t5 = isinstance(config, t5.T5Config)
  inputs, mask = np.zeros((2, len(prompts), longest), np.int64)
  for row, prompt in enumerate(prompts):
    place = slice(0, len(prompt)) if is_t5 else slice(longest - len(prompt), longest)
    inputs[row, place], mask[row, place] = prompt, 1
  with torch.no_grad():
    found = model.generate(
      torch.tensor(inputs),
      attention_mask=torch.tensor(mask),
      max_new_tokens=LENGTH,
      do_sample=False,
      eos_token_id=ENDS,
      pad_token_id=0,
      return_dict_in_generate=True,
      output_scores=True,
      **options,
    )
  rows = found.sequences[:, 1 if is_t5 else longest :].tolist()
  return [_until_end(row) for row in rows], getattr(found, "sequences_scores", None)


def _until_end(row):
  ends = [place for place, token in enumerate(row) if token in ENDS]
  return row[: ends[0] + 1] if ends else row


def ours(function, name, **options):
  config = CONFIGS[name]
  tokens, scores = function(
    LoadedModel(models(name)[1], config, None),
    prompts_of(config),
    (np.array(ENDS, np.int32), -1),
    max_length=LENGTH,
    batch_size=256,
    **options,
  )
  return [[int(token) for token in row if token != batches.ENDED] for row in tokens], scores


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy(name):
  pytest.importorskip("torch")
  expected, _ = theirs(name)
  assert (
    len({len(row) for row in expected}) > 3 and len(set(map(tuple, expected))) > 50
  )  # something to compare
  assert ours(sampling.sample, name)[0] == expected


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "umt5"])  # its step is T5's
def test_beams(name, length_penalty):
  pytest.importorskip("torch")
  expected, penalised = theirs(name, num_beams=4, length_penalty=length_penalty)
  tokens, scores = ours(beams.search, name, beams=4, length_penalty=length_penalty)
  assert tokens == expected
  lengths = np.array([len(row) for row in tokens])
  np.testing.assert_allclose(scores / lengths**length_penalty, penalised, rtol=1e-4)
  if length_penalty == 1.0:
    assert (
      sum(row != other for row, other in zip(expected, theirs(name)[0])) > 20
    )  # beams found what greed did not


@pytest.mark.parametrize("name", ["t5 v1.1", "mistral"])
def test_one_beam_is_greedy(name):
  greedy = ours(sampling.sample, name)
  single = ours(beams.search, name, beams=1, length_penalty=0.0)
  assert single[0] == greedy[0]
  np.testing.assert_allclose(single[1], greedy[1], rtol=1e-4)
