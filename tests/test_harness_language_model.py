"""Our models in the lm-evaluation-harness against the harness's own HuggingFace models and
transformers, in PyTorch.
"""

import types

import numpy as np
import pytest

lm_eval = pytest.importorskip("lm_eval")
torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

import tiny_folders

from factshock.data import pretrained_tokenizers
from factshock.harness import language_model
from factshock.runtime.errors import UserError

LINES = ["where was Ada Byron born ?", "Ada Byron was born in London .", "def f ( x ) : return x"]
CONTEXTS = [
  "Q: where was Ada Byron born ?\nA:",
  "Q: who made it ?\nA:",
  "Ada Byron was born in",
  "",
  "Tokyo Paris ",
]
CONTINUATIONS = [" London", " Grace Hopper", " Rome", "Paris", "the quick brown fox", " 7"]


def ask(*each):
  """Requests as the harness makes them, of tuples of arguments."""
  return [types.SimpleNamespace(args=arguments) for arguments in each]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("harness")
  tiny_folders.make(folder, LINES, max_length=64)
  return folder


@pytest.fixture(scope="module")
def llama(home):
  return language_model.FactshockLM(str(home / "llama"), batch_size=4)


@pytest.fixture(scope="module")
def t5(home):
  return language_model.FactshockLM(str(home / "t5"), batch_size="auto")


@pytest.fixture(scope="module")
def theirs(home):
  """The harness's own model of the same folder, which puts BOS first as ours does."""
  return harness_model(home)


def harness_model(home, bos=True):
  from lm_eval.models.huggingface import HFLM

  return HFLM(
    pretrained=str(home / "llama"), device="cpu", dtype="float32", batch_size=3, add_bos_token=bos
  )


def pairs():
  return ask(*[(context, continuation) for context in CONTEXTS for continuation in CONTINUATIONS])


def test_a_llamas_likelihoods_are_those_of_the_harness(llama, theirs):
  requests = [request for request in pairs() if request.args[0]]
  found = llama.loglikelihood(requests)
  expected = theirs.loglikelihood([instance(request) for request in requests], disable_tqdm=True)
  np.testing.assert_allclose(
    [score for score, _ in found], [score for score, _ in expected], rtol=1e-4
  )
  assert [greedy for _, greedy in found] == [bool(greedy) for _, greedy in expected]


def instance(request, kind="loglikelihood"):
  from lm_eval.api.instance import Instance

  return Instance(request_type=kind, doc={}, arguments=request.args, idx=0)


def test_a_t5s_likelihoods_are_those_of_transformers(t5, home):
  tokenizer = pretrained_tokenizers.load(home / "t5")
  model = transformers.T5ForConditionalGeneration.from_pretrained(
    home / "t5", dtype=torch.float32
  ).eval()
  for request, (score, greedy) in zip(pairs(), t5.loglikelihood(pairs())):
    context, continuation = request.args
    inputs = tokenizer.encode(f"{context.strip()} <extra_id_0>".strip()) + [tokenizer.eos]
    labels = tokenizer.encode(f"<extra_id_0> {continuation.strip()}")
    with torch.no_grad():
      logits = model(input_ids=torch.tensor([inputs]), labels=torch.tensor([labels])).logits[0, 1:]
    expected = logits.log_softmax(-1)[torch.arange(len(labels) - 1), torch.tensor(labels[1:])].sum()
    assert score == pytest.approx(float(expected), rel=1e-4)
    assert greedy == (logits.argmax(-1).tolist() == labels[1:])


def test_what_a_model_generates_is_greedy(llama, t5):
  """A continuation that greedy decoding gives, asked back, is greedy; with another word after it,
  it is not.
  """
  for model, context in ((llama, CONTEXTS[0]), (t5, "where was Ada Byron born ?")):
    (said,) = model.generate_until(ask((context, {"until": [], "max_gen_toks": 4})))
    assert said.strip()
    inputs, after = language_model.encode_pair(model.loaded, context, f" {said.strip()}")
    answered = model.loglikelihood(
      ask((context, f" {said.strip()}"), (context, f" {said.strip()} Tokyo Tokyo"))
    )
    decoded = model.loaded.tokenizer.decode(after[0 if model.loaded.decoder_only else 1 :]).strip()
    assert decoded == said.strip() and not answered[1][1]


def test_rolling_likelihoods_are_those_of_the_harness(llama, home):
  texts = ["Ada Byron was born in London .", " ".join(LINES * 12), "x", ""]
  requests = ask(*((text,) for text in texts))
  found = llama.loglikelihood_rolling(requests)
  asked = [instance(request, "loglikelihood_rolling") for request in requests[:3]]
  expected = harness_model(home, bos=False).loglikelihood_rolling(asked, disable_tqdm=True)
  tokens = len(llama.loaded.tokenizer.encode(texts[1]))
  assert tokens > 2 * llama.loaded.model_config.max_length  # several windows
  np.testing.assert_allclose(found[:3], expected, rtol=1e-4)
  assert found[3] == 0.0


def test_generated_texts_are_those_of_the_harness_and_end_at_until(llama, theirs, monkeypatch):
  # the harness leaves out special tokens, which in the tests' tokenizer all bytes are; it cuts at
  # EOS's text itself
  whole = lambda tokens, **_: theirs.tokenizer.decode(tokens, skip_special_tokens=False)
  monkeypatch.setattr(theirs, "tok_decode", whole)
  arguments = {"max_gen_toks": 12, "do_sample": False}
  free = llama.generate_until(ask(*((context, {"until": [], **arguments}) for context in CONTEXTS)))
  letters = [text[len(text) // 2] for text in free]
  requests = ask(
    *((context, {"until": [letter], **arguments}) for context, letter in zip(CONTEXTS, letters))
  )
  found = llama.generate_until(requests)
  assert found == [text.split(letter)[0] for text, letter in zip(free, letters)] and found != free
  asked = [request for request in requests if request.args[0]]
  expected = theirs.generate_until(
    [instance(request, "generate_until") for request in asked], disable_tqdm=True
  )
  assert [text for text, request in zip(found, requests) if request.args[0]] == expected


def test_sampling_goes_by_seed_and_differs_between_repeats(llama, home):
  requests = ask(
    *[(CONTEXTS[0], {"until": ["\n"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8})]
    * 5
  )
  found = llama.generate_until(requests)
  assert len(set(found)) > 1 and found == llama.generate_until(requests)
  assert found != language_model.FactshockLM(
    str(home / "llama"), batch_size=4, seed=1
  ).generate_until(requests)


def test_a_context_that_is_too_long_loses_its_first_tokens(llama, theirs, capsys):
  long = " ".join(LINES * 12)
  ((score, _),) = llama.loglikelihood(ask((long, " London")))
  assert "1 of 1 contexts are longer than the model reads" in capsys.readouterr().out
  tokenizer = llama.loaded.tokenizer
  inputs, after = language_model.encode_pair(llama.loaded, long, " London")
  kept = [tokenizer.bos, *inputs[-(64 - len(after) - 1) :]]
  from factshock.answering import likelihoods

  expected = likelihoods.score(llama.loaded, [(kept, after)])[0][0]
  assert score == pytest.approx(expected, rel=1e-5)
  (said,) = llama.generate_until(ask((long, {"until": ["\n"], "max_gen_toks": 8})))
  assert isinstance(said, str)


def test_requests_and_models_that_cannot_be(llama, t5, home):
  with pytest.raises(UserError, match="expected a decoder-only model"):
    t5.loglikelihood_rolling(ask(("a text",)))
  with pytest.raises(UserError, match="a continuation with at least one token, got ''"):
    llama.loglikelihood(ask(("Q:", "")))
  with pytest.raises(UserError, match="<extra_id_0> at most once"):
    t5.loglikelihood(ask(("<extra_id_0> is <extra_id_0>", " x")))
  with pytest.raises(UserError, match="got top_p"):
    llama.generate_until(
      ask(("Q:", {"until": [], "do_sample": True, "temperature": 0.5, "top_p": 0.9}))
    )
  with pytest.raises(UserError, match="lower max_gen_toks"):
    llama.generate_until(ask(("Q:", {"until": [], "max_gen_toks": 64})))
  with pytest.raises(UserError, match="expected checkpoint=PATH"):
    language_model.FactshockLM()
  with pytest.raises(UserError, match="--batch_size: expected a whole number"):
    language_model.FactshockLM(str(home / "llama"), batch_size=0)


def test_the_harness_knows_the_model_by_its_name():
  from lm_eval.api.registry import get_model

  assert get_model("factshock") is language_model.FactshockLM
