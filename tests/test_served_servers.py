"""What servers do beside the stand-in: llama.cpp, Ollama, SGLang, vLLM, OpenAI and proxies."""

import dataclasses
import json
import math

import pytest
import stand_in_server
from stand_in_server import serving

from factshock.runtime.errors import UserError
from factshock.served import answers, asking, client, endpoints, models
from factshock.served.client import RefusedError

httpx = pytest.importorskip("httpx")
GREEDY = {"max_tokens": 12, "stops": ("\n",)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  stand_in_server.ask_quickly(monkeypatch)


def opened(server, rest=""):
  return models.open_endpoint(server.source(rest))


def refused(call, *values):
  with pytest.raises(UserError) as error:
    call(*values)
  return str(error.value)


def in_turn(monkeypatch, model, *found):
  """Has a model's client give these answers in turn, each a choice or a whole answer."""
  given = iter(found)

  def post(path, body):
    choice = next(given)
    return choice if "choices" in choice else {"choices": [choice]}

  monkeypatch.setattr(model.client, "post", post)


def said(text, log_p=-1.0, **more):
  """A chat's choice of one token."""
  listed = {"content": [{"token": text, "logprob": log_p}]}
  return {"message": {"content": text}, "logprobs": listed, **more}


def test_an_empty_answer_without_tokens_is_the_least_likely(monkeypatch):
  with serving() as server:
    model = opened(server, "&concurrency=1")
  empty = {"text": "", "logprobs": None}
  right = {"text": " a", "logprobs": {"tokens": [" a"], "token_logprobs": [-2.0]}}
  for found in ([right, empty], [empty, right]):
    in_turn(monkeypatch, model, *found)
    texts, scores = asking.generate(model, ["x", "y"], **GREEDY)
    assert sorted(zip(texts, scores.tolist())) == [("", -math.inf), ("a", -2.0)]
  chat = dataclasses.replace(model.endpoint, chat=True)
  model = dataclasses.replace(model, endpoint=chat, dialect=models.Dialect())
  in_turn(monkeypatch, model, {"message": {"content": ""}}, said("b"))
  texts, scores = asking.generate(model, ["x", "y"], **GREEDY)
  assert texts == ["", "b"] and scores.tolist() == [-math.inf, -1.0]


def test_thoughts_of_a_chat_are_neither_answered_nor_scored(monkeypatch):
  with serving() as server:
    model = opened(server, "&api=chat&concurrency=1")
  tokens = [("Hm", -3.0), ("Paris?", -2.0), ("</think>", -1.0), ("\n", -0.5), (" Paris", -0.25)]
  listed = {"content": [{"token": text, "logprob": log_p} for text, log_p in tokens]}
  parsed = {"message": {"content": "Paris", "reasoning_content": "HmParis?"}, "logprobs": listed}
  whole = {"message": {"content": "<think>HmParis?</think>\n Paris"}, "logprobs": listed}
  in_turn(monkeypatch, model, parsed, whole)
  texts, scores = asking.generate(model, ["x", "y"], max_tokens=9, stops=("?",))
  assert texts == ["Paris", "Paris"] and scores.tolist() == [-0.25, -0.25]
  in_turn(monkeypatch, model, {"message": {"content": "<think>Hm"}, "finish_reason": "length"})
  with pytest.raises(UserError, match="turn its thinking off"):
    asking.generate(model, ["x"], **GREEDY)


def test_contents_that_chats_give_otherwise(monkeypatch, capsys):
  with serving() as server:
    model = opened(server, "&api=chat&concurrency=1")
  parts = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
  withheld = {"message": {"content": None}, "finish_reason": "content_filter"}
  half = said("c\ud83d")
  in_turn(monkeypatch, model, {**said("ab"), "message": parts}, withheld, half)
  texts, scores = asking.generate(model, ["x", "y", "z"], **GREEDY)
  assert texts == ["ab", "", "c\N{REPLACEMENT CHARACTER}"] and scores[1] == -math.inf
  assert "filter withholds some answers" in capsys.readouterr().err


def test_choices_come_by_their_index():
  shuffled = [{"index": 2}, {"index": 0}, {"index": 1}]
  assert answers.choices({"choices": shuffled}, "u", 3) == [{"index": n} for n in range(3)]


def test_the_other_name_of_the_most_tokens_is_found_out(monkeypatch):
  with serving() as server:
    model = opened(server, "&api=chat&concurrency=1")
  bodies = []

  def post(path, body):
    bodies.append(body)
    if "max_tokens" in body:
      raise RefusedError("HTTP 400: use 'max_completion_tokens' instead of 'max_tokens'")
    return {"choices": [said("a")]}

  monkeypatch.setattr(model.client, "post", post)
  assert asking.generate(model, ["x", "y"], **GREEDY)[0] == ["a", "a"]
  assert ["max_tokens" in body for body in bodies] == [True, False, False]
  assert bodies[-1]["max_completion_tokens"] == GREEDY["max_tokens"]


def replies(monkeypatch, client, *found):
  """Has a client get these (status, text) in turn."""
  given = iter(found)

  def request(method, url, **more):
    status, text = next(given)
    return httpx.Response(status, text=text, request=httpx.Request(method, url))

  monkeypatch.setattr(client._http, "request", request)


def test_what_passes_is_waited_for(monkeypatch, capsys):
  monkeypatch.setattr(client, "_LOADING_WAIT", 0.0)
  good = '\ufeff{"choices": [{"text": "a"}]}'
  loading = (503, '{"error": {"message": "Loading model"}}')
  broken_off = [
    json.dumps({"choices": [{"text": "", "finish_reason": reason}]})
    for reason in ("abort", {"type": "abort"}, "error")
  ]
  upstream = '{"error": {"message": "upstream", "code": 502}, "choices": []}'
  with serving() as server:
    asked = opened(server).client
  replies(monkeypatch, asked, *[loading] * 20, (200, good))
  assert asked.post("/x", {})["choices"][0]["text"] == "a"
  assert "Loading model; waiting, 10 minutes at most" in capsys.readouterr().err
  passing = ((200, text) for text in (*broken_off, "<html>", upstream))
  replies(monkeypatch, asked, *passing, (200, good))
  assert asked.post("/x", {})["choices"][0]["text"] == "a"


def test_what_does_not_pass_is_said_at_once(monkeypatch):
  monkeypatch.setenv(endpoints.KEYS[0], "sk-secret")
  with serving() as server:
    asked = opened(server).client
  quota = '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
  replies(monkeypatch, asked, (429, quota))
  assert "exceeded your quota" in refused(asked.post, "/x", {})
  replies(monkeypatch, asked, (200, '{"error": {"message": "no"}, "choices": []}'))
  assert refused(asked.post, "/x", {}).endswith(": no")
  replies(monkeypatch, asked, (200, '{"choices": [{"a": "Bearer sk-secret"}]}'))
  assert "sk-secret" not in str(asked.post("/x", {}))
  replies(monkeypatch, asked, *[(500, "no")] * client.TRIES)
  assert refused(asked.post, "/x", {}).endswith(f"no, {client.TRIES} times")


def test_the_environment_may_be_wrong(monkeypatch):
  endpoint = endpoints.parse("endpoint:http://127.0.0.1:9/v1?model=m")
  for name, value in (("ALL_PROXY", "foo://x"), ("SSL_CERT_FILE", "/nowhere.pem")):
    with monkeypatch.context() as patch:
      patch.setenv(name, value)
      assert name in refused(client.Client, endpoint)


def test_models_that_cannot_be_listed_are_asked_all_the_same(monkeypatch):
  for status, text in ((403, "no scope"), (400, "no"), (404, "no"), (200, '[{"id": "m"}]')):
    endpoint = endpoints.parse("endpoint:http://127.0.0.1:9/v1?model=m")
    with client.Client(endpoint) as asked:
      replies(monkeypatch, asked, (status, text))
      models._check_served(endpoint, asked)
      replies(monkeypatch, asked, (200, '[{"id": "n"}]'))
      assert "expected a model that is served" in refused(models._check_served, endpoint, asked)
