"""A served model is asked through faults, and every fault that stays is one clear line."""

import logging
import math
import socket
import subprocess
import time

import numpy as np
import pytest
import stand_in_server
from stand_in_server import serving

from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.served import answers, asking, client, models

PROMPTS = [f"The capital of country {index} is" for index in range(40)]
GREEDY = {"max_tokens": 12, "stops": ("\n",)}
SECRET = "sk-very-secret-123"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  stand_in_server.ask_quickly(monkeypatch)


def expected(prompt, max_tokens=12):
  """Returns what the stand-in's model says, and its log-probability."""
  made = stand_in_server.generate(prompt, max_tokens, ("\n",), stand_in_server.greedy)
  text = bytes(byte for byte, _ in made).decode()
  return text.split("\n")[0].strip(), sum(log_p for _, log_p in made)


def opened(server, rest=""):
  return models.open_endpoint(server.source(rest))


def refused(call, *values, **options):
  with pytest.raises(UserError) as error:
    call(*values, **options)
  text = str(error.value)
  assert "\n" not in text
  return text


# What is asked, and what comes back.


def test_answers_are_the_models_in_order_with_their_log_probabilities():
  with serving() as server:
    texts, scores = asking.generate(opened(server), PROMPTS, **GREEDY)
  answers, log_ps = zip(*map(expected, PROMPTS))
  assert texts == list(answers)
  assert scores.dtype == np.float32
  np.testing.assert_allclose(scores, log_ps, rtol=1e-6)


def test_the_likeliest_is_asked_for_without_penalties_that_servers_have_of_their_own():
  with serving() as server:
    asking.generate(opened(server), PROMPTS[:1], **GREEDY)
  (body,) = server.bodies
  assert body == {
    "model": "stand-in",
    "prompt": PROMPTS[0],
    "max_tokens": 12,
    "temperature": 0.0,
    "logprobs": 1,
    "stop": ["\n"],
    "repeat_penalty": 1.0,
    "repetition_penalty": 1.0,
  }


@pytest.mark.parametrize("kind, refusals", [("greedy", 1), ("sample", 2)])
def test_a_server_that_refuses_settings_beyond_the_protocol_is_asked_without(
  capsys, kind, refusals
):
  with serving(strict=True) as server:
    model = opened(server)
    asked = []
    post = model.client.post
    model.client.post = lambda *values: (asked.append(values), post(*values))[1]
    asking.generate(model, PROMPTS, **GREEDY, temperature=0.5 if kind == "sample" else 0.0)
  assert len(asked) == len(PROMPTS) + refusals
  said = capsys.readouterr().err
  assert said.count("its own settings hold") == 1 and "repetition_penalty" in said
  assert server.bodies[-1].keys() <= stand_in_server.FIELDS


def test_samples_are_of_the_seed_and_a_prompts_index_whatever_the_parts():
  sampling = {"max_tokens": 12, "stops": ("\n",), "temperature": 0.8, "seed": 3}
  with serving() as server:
    model = opened(server)
    whole, scores = asking.generate(model, PROMPTS, **sampling)
    again, _ = asking.generate(model, PROMPTS, **sampling)
    first, _ = asking.generate(model, PROMPTS[:7], **sampling)
    rest, _ = asking.generate(model, PROMPTS[7:], **sampling, first=7)
    other, _ = asking.generate(model, PROMPTS, **{**sampling, "seed": 4})
    same, _ = asking.generate(model, PROMPTS[:1] * 20, **sampling)
  assert whole == again == first + rest
  assert whole != other and len(set(same)) > 10
  assert np.isfinite(scores).all()
  seeds = {body["seed"] for body in server.bodies}
  assert len(seeds) == 2 * len(PROMPTS) and all(0 <= seed < 2**31 for seed in seeds)


def test_what_is_generated_has_the_log_probability_that_it_has_as_a_given_text():
  prompts = [f"{prompt}:" for prompt in PROMPTS]
  pairs = []
  for prompt in prompts:
    made = stand_in_server.generate(prompt, 12, (), stand_in_server.greedy)
    pairs.append((prompt, bytes(byte for byte, _ in made).decode()))
  with serving() as server:
    model = opened(server)
    _, scores = asking.generate(model, prompts, max_tokens=12, stops=())
    given = asking.log_probabilities(model, pairs)
  np.testing.assert_allclose(given.sums, scores, rtol=1e-5)
  assert given.likeliest.all()


@pytest.mark.parametrize(
  "settings, way",
  [
    ({}, "echo"),
    ({"bos": "<|begin_of_text|>"}, "echo"),
    ({"echo": "ignored", "prompt_logprobs": True}, "prompt_logprobs"),
    ({"echo": "refused", "prompt_logprobs": True, "bos": "<s>"}, "prompt_logprobs"),
    ({"logprobs": "none", "prompt_logprobs": True}, "prompt_logprobs"),
  ],
)
def test_given_texts_are_scored_by_the_way_that_the_server_has(settings, way):
  pairs = [("The capital is", " paris"), ("The capital is", " rome."), ("It is:", " b")]
  with serving(**settings) as server:
    model = opened(server)
    scores = asking.log_probabilities(model, pairs)
  assert model.dialect.way == way
  sums = [stand_in_server.log_p(*map(str.encode, pair))[0] for pair in pairs]
  np.testing.assert_allclose(scores.sums, sums)
  assert scores.sums.dtype == np.float64 and scores.likeliest.dtype == bool
  assert not scores.likeliest.any()
  assert all(body["max_tokens"] == 1 for body in server.bodies)


def test_a_chat_is_asked_as_such_and_may_have_no_scores(capsys):
  with serving() as server:
    model = opened(server, "&api=chat")
    texts, scores = asking.generate(model, PROMPTS, **GREEDY)
    assert texts == [expected(prompt)[0] for prompt in PROMPTS] and len(scores) == len(PROMPTS)
    assert server.bodies[0]["messages"] == [{"role": "user", "content": PROMPTS[0]}]
    assert "prompt" not in server.bodies[0]
  with serving(logprobs="none") as server:
    texts, scores = asking.generate(opened(server, "&api=chat"), PROMPTS, **GREEDY)
  assert texts == [expected(prompt)[0] for prompt in PROMPTS] and scores is None
  assert capsys.readouterr().err.count("no log-probabilities: its answers have no score") == 1


def test_the_form_of_llama_cpps_own_server_is_read():
  with serving(logprobs="objects") as server:
    texts, scores = asking.generate(opened(server), PROMPTS, **GREEDY)
  np.testing.assert_allclose(scores, [expected(prompt)[1] for prompt in PROMPTS], rtol=1e-6)


def test_hypotheses_of_a_beam_search_are_cut_and_told_apart():
  with serving(beams="given") as server:
    listed = asking.hypotheses(opened(server), PROMPTS[:5], **GREEDY, beams=4)
  for hypotheses in listed:
    texts = [text for text, _ in hypotheses]
    assert len(set(texts)) == len(texts) <= 4 and "\n" not in "".join(texts)
    assert all(math.isfinite(score) and score < 0 for _, score in hypotheses)


def test_hypotheses_that_go_on_behind_a_stop_are_compared_as_cut(capsys):
  # As vLLM's search lists them: by log-probability / tokens of all that it found.
  found = [
    ([" ", "\n", "The", " end"], [-1.0, -1.8, -0.1, -0.1]),
    ([" Germany", "\n", "Q"], [-1.2, -1.2, -1.0]),
    (["\n", "\n", "\n"], [-1.5, -1.5, -1.5]),
    ([" Germany"], [-9.0]),
  ]
  choices = [
    {
      "index": index,
      "text": "".join(texts),
      "logprobs": {"tokens": texts, "token_logprobs": log_ps},
    }
    for index, (texts, log_ps) in enumerate(found)
  ]
  listed = asking._listed({"choices": choices}, ("\n",), 4, "http://a")
  assert listed == [("Germany", pytest.approx(-2.4)), ("", pytest.approx(-2.8))]
  assert "does not end at stop strings" in capsys.readouterr().err


def test_nothing_asked_is_nothing_answered():
  with serving() as server:
    model = opened(server)
    texts, scores = asking.generate(model, [], **GREEDY)
    given = asking.log_probabilities(model, [])
  assert texts == [] and scores.shape == (0,) == given.sums.shape
  assert server.bodies == []


def test_tokens_requests_and_retries_are_counted():
  with serving() as server:
    model = opened(server)
    asking.generate(model, PROMPTS, **GREEDY)
  usage = model.client.usage
  assert usage.requests == len(PROMPTS) + 1 and usage.retries == 0  # with that of /models
  assert usage.prompt_tokens == len(PROMPTS) * 6
  assert len(PROMPTS) < usage.completion_tokens <= 12 * len(PROMPTS)
  assert "41 requests (0 sent again), 240 tokens asked" in usage.describe(2.0)
  assert "20.5 requests a second" in usage.describe(2.0)


# Faults that pass.


@pytest.mark.parametrize("fault", ["429", "500", "503", "dropped", "half"])
def test_a_fault_that_passes_changes_no_answer(fault, capsys):
  with serving(failing=0.3, faults=(fault,)) as server:
    model = opened(server)
    texts, _ = asking.generate(model, PROMPTS, **GREEDY)
  assert texts == [expected(prompt)[0] for prompt in PROMPTS]
  assert server.faults > 3 and model.client.usage.retries == server.faults
  assert len(server.bodies) == len(PROMPTS)  # each is answered once
  assert capsys.readouterr().err.count("asking again") == 1


def test_order_is_kept_through_slow_answers_faults_and_a_restart(monkeypatch):
  monkeypatch.setattr(client, "BACKOFF", 0.05)
  prompts = [f"Query {index}:" for index in range(300)]
  settings = {"failing": 0.1, "slow": 0.05, "seconds": 0.02, "down_after": 100, "down_for": 0.2}
  with serving(**settings) as server:
    texts, _ = asking.generate(opened(server), prompts, **GREEDY)
  assert texts == [expected(prompt)[0] for prompt in prompts]


def test_a_server_that_names_a_wait_is_given_it(monkeypatch):
  monkeypatch.setattr(client, "LONGEST_WAIT", 0.05)
  with serving(failing=1.0, faults=("429",), retry_after="3600") as server:
    model = opened(server)
    began = time.monotonic()
    text = refused(asking.generate, model, PROMPTS[:1], **GREEDY)
  assert 5 * 0.05 <= time.monotonic() - began < 5
  assert server.faults == client.TRIES == 6
  assert text.startswith(f"{server.url}/completions: HTTP 429: busy, 6 times")


def test_a_date_to_come_back_at_is_read():
  class Response:
    headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}

  assert client._retry_after(Response()) == 0.0
  Response.headers = {"Retry-After": "soon"}
  assert client._retry_after(Response()) is None
  Response.headers = {}
  assert client._retry_after(Response()) is None


# What does not pass: one line each.


def test_no_server():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  began = time.monotonic()
  text = refused(models.open_endpoint, f"endpoint:http://127.0.0.1:{port}?model=m")
  assert text.startswith(f"http://127.0.0.1:{port}/v1/models: no server answers there")
  assert time.monotonic() - began < 2  # at once


def test_a_server_that_stays_away():
  with serving() as server:
    model = opened(server)
    server.stop()
    text = refused(asking.generate, model, PROMPTS, **GREEDY)
    assert "no connection" in text and text.endswith("6 times; is the server up?")
    server._up()


def test_a_wrong_path(capsys):
  with serving() as server:
    address = server.url.replace("/v1", "/v2")
    model = models.open_endpoint(f"endpoint:{address}?model=stand-in")
    text = refused(asking.generate, model, PROMPTS, **GREEDY)
  assert text.startswith(f"{address}/completions: HTTP 404: Not Found; expected a server")


def test_a_model_that_is_not_served(capsys):
  with serving(listed=("this", "that")) as server:
    text = refused(models.open_endpoint, f"endpoint:{server.url}?model=other")
    assert "got 'other'; served: this, that" in text
  with serving(listed=None) as server:  # one that lists none
    models.open_endpoint(f"endpoint:{server.url}?model=other")
    assert "lists no models" in capsys.readouterr().err
  with serving(listed=("llama3:latest",)) as server:  # as Ollama names what is asked as llama3
    models.open_endpoint(f"endpoint:{server.url}?model=llama3")


def test_a_key_that_is_missing_or_refused(monkeypatch, capsys, caplog):
  caplog.set_level(logging.DEBUG)
  with serving(key=SECRET) as server:
    text = refused(models.open_endpoint, server.source())
    assert "needs a key (HTTP 401" in text and "FACTSHOCK_API_KEY" in text
    monkeypatch.setenv("FACTSHOCK_API_KEY", "sk-wrong-987")
    text = refused(models.open_endpoint, server.source())
    assert "refuses the key" in text and "sk-wrong-987" not in text and "[key]" in text
    monkeypatch.setenv("FACTSHOCK_API_KEY", SECRET)
    model = opened(server)
    server.settings.failing, server.settings.lasting = 0.3, f"logits_all {SECRET}"
    text = refused(asking.generate, model, PROMPTS, **GREEDY)
  printed = capsys.readouterr()
  shown = [text, repr(model), repr(model.client), str(vars(model.endpoint)), model.endpoint.source]
  assert SECRET not in "".join([*shown, printed.out, printed.err, caplog.text])


def test_a_key_that_would_leave_the_machine_unencrypted_is_said(monkeypatch, capsys):
  monkeypatch.setenv("FACTSHOCK_API_KEY", SECRET)
  for address in ("http://127.0.0.1:1", "https://far.example", "http://far.example"):
    client.Client(models.endpoints.parse(f"endpoint:{address}?model=m")).close()
  said = capsys.readouterr().err
  assert said.count("unencrypted") == 1 and "http://far.example/v1: the key" in said
  assert SECRET not in said


def test_no_log_probabilities():
  with serving(logprobs="none") as server:
    text = refused(asking.generate, opened(server), PROMPTS, **GREEDY)
    assert "expected log-probabilities of the tokens (logprobs), got none; &api=chat" in text
    text = refused(asking.log_probabilities, opened(server), [("a", " b")])
    assert "generating works: --method=greedy" in text
  with serving(echo="refused") as server:
    text = refused(asking.log_probabilities, opened(server), [("a", " b")])
    assert "--method=greedy" in text and "Only no echo is supported" in text
  with serving(echo="ignored") as server:
    text = refused(asking.log_probabilities, opened(server), [("a", " b")])
    assert "--method=greedy" in text
    text = refused(asking.log_probabilities, opened(server, "&api=chat"), [("a", " b")])
    assert "api=chat does not give log-probabilities" in text


def test_a_setting_of_the_server_that_no_retry_changes():
  message = "logprobs is not supported for models created with logits_all=False"
  with serving(lasting=message) as server:
    text = refused(asking.generate, opened(server), PROMPTS, **GREEDY)
    assert text.endswith(f"HTTP 500: {message}")
    assert server.asked == 1


def test_a_context_too_long():
  with serving(context=100) as server:
    text = refused(asking.generate, opened(server), ["a" * 200], **GREEDY)
  assert "HTTP 400: This model's maximum context length is 100 tokens, got 212" in text


def test_a_page_in_place_of_json():
  with serving(page="<!doctype html>\n<title>Welcome</title>" + "x" * 9999) as server:
    text = refused(models.open_endpoint, server.source())
  assert "expected a JSON object" in text and "<!doctype html> <title>Welcome" in text
  assert len(text) < 500
  for page in ("[1, 2]", "null", "", '"text"'):
    with serving(page=page) as server:
      assert "expected a JSON object" in refused(models.open_endpoint, server.source())


def test_json_that_does_not_end_is_asked_for_again():
  with serving(page='{"choices": [{"text": "hal') as server:
    text = refused(models.open_endpoint, server.source())
  assert "half an answer" in text and text.endswith("6 times; is the server up?")


def test_redirects_are_not_followed():
  with serving() as elsewhere:
    with serving(redirect=f"{elsewhere.url}/models") as server:
      text = refused(models.open_endpoint, server.source())
    assert f"redirects to {elsewhere.url}/models, which is not followed" in text
    assert elsewhere.asked == 0 and not elsewhere.bodies


def test_a_certificate_that_does_not_fit(tmp_path):
  key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
  command = [
    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
    *("-subj", "/CN=other.example", "-keyout", str(key), "-out", str(certificate)),
  ]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except FileNotFoundError:
    pytest.skip("no openssl")
  with serving((certificate, key)) as server:
    text = refused(models.open_endpoint, server.source())
    assert "the server's certificate does not fit" in text and "SSL_CERT_FILE" in text
    plain = server.source().replace("https:", "http:")
    assert refused(models.open_endpoint, plain)
  with serving() as server:
    text = refused(models.open_endpoint, server.source().replace("http:", "https:"))
    assert "is it http://?" in text


def test_a_server_that_changes_its_model():
  with serving(changes_model_after=5) as server:
    text = refused(asking.generate, opened(server), PROMPTS, **GREEDY)
  assert "expected answers of model 'stand-in', as before, got one of 'another'" in text


def test_a_server_that_echoes_another_text():
  with serving(other_text=True) as server:
    text = refused(asking.log_probabilities, opened(server), [("The city is", " Paris")])
  assert "expected the text that was sent to be echoed, 'The city is Paris', got 'siraP" in text


def test_log_probabilities_that_stand_with_other_tokens():
  with serving(shifted=True) as server:
    text = refused(asking.log_probabilities, opened(server), [("The city is", " Paris")])
    assert "the place behind it, as llama-cpp-python does" in text
    texts, _ = asking.generate(opened(server), PROMPTS, **GREEDY)  # goes on working
  assert texts == [expected(prompt)[0] for prompt in PROMPTS]


@pytest.mark.parametrize(
  "spoils, got", [("nan", "nan"), ("null", "null"), ("positive", "0.5"), ("infinite", "inf")]
)
@pytest.mark.parametrize("logprobs", ["lists", "objects"])
def test_log_probabilities_that_are_none(spoils, got, logprobs):
  with serving(spoils=spoils, logprobs=logprobs) as server:
    text = refused(asking.generate, opened(server), PROMPTS, **GREEDY)
    assert text == f"{server.url}/completions: expected a log-probability of at most 0, got {got}"
  with serving(spoils=spoils) as server:
    text = refused(asking.log_probabilities, opened(server), [("a b", " c")])
    assert text.endswith(f"got {got}")


def test_a_token_that_holds_the_end_of_the_prompt():
  with serving() as server:
    text = refused(asking.log_probabilities, opened(server), [("The capital is Pa", "ris")])
  assert "ends with 'The capital is Pa', in the middle of the token ' Paris'" in text


@pytest.mark.parametrize(
  "beams, words", [("none", "expected 4 choices, got 1"), ("same", "got one")]
)
def test_a_server_without_beam_search(beams, words):
  with serving(beams=beams) as server:
    assert words in refused(asking.hypotheses, opened(server), PROMPTS, **GREEDY, beams=4)
  with serving(strict=True) as server:
    text = refused(asking.hypotheses, opened(server), PROMPTS, **GREEDY, beams=4)
    assert "expected a server with beam search" in text
    text = refused(asking.hypotheses, opened(server, "&api=chat"), PROMPTS, **GREEDY, beams=4)
    assert "api=chat does not have a beam search" in text


def test_a_chat_that_thinks_and_says_nothing():
  with serving(thinks=True) as server:
    text = refused(asking.generate, opened(server, "&api=chat"), PROMPTS, **GREEDY)
  assert "expected a text" in text and "raise --max_tokens" in text


def test_a_client_that_is_closed_stops():
  with serving(failing=1.0, faults=("500",)) as server:
    model = opened(server)
    with model.client:
      pass
    assert "closed" in refused(asking.generate, model, PROMPTS, **GREEDY)


def test_httpx_that_is_missing(monkeypatch):
  monkeypatch.setattr(client, "httpx", None)
  text = refused(models.open_endpoint, "endpoint:http://h?model=m")
  assert text.endswith("needs the package httpx: pip install 'factshock[served]'")


def test_what_is_said_goes_to_who_listens():
  lines = []
  with messages.sent_to(lines.append), serving(failing=0.3, faults=("500",)) as server:
    asking.generate(opened(server), PROMPTS, **GREEDY)
  (line,) = lines
  assert line.endswith("HTTP 500: busy; asking again, as often as 6 times a request")


def test_an_answer_without_tokens_does_not_seem_certain():
  assert answers.score(answers.Tokens([], [], []), (), "http://a") == -math.inf
