"""Real models served by llama.cpp (llama-cpp-python's server), beside our own reader of the file.

SmolLM2 is found as in test_real_gguf.py, Gemma 3 at $FACTSHOCK_GEMMA3. The file is first widened to
float32, so that what differs is rounding alone.
"""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import test_real_gguf

from factshock import api
from factshock.answering import asking
from factshock.answering.asking import AnswerOptions
from factshock.answering.decoding import DecodingOptions
from factshock.answering.prompting import Prompting
from factshock.runtime.errors import UserError

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("llama_cpp", "uvicorn"))),
    reason="no llama-cpp-python[server]",
  ),
]
COUNTRIES = {
  "Paris": "France",
  "Tokyo": "Japan",
  "Cairo": "Egypt",
  "Madrid": "Spain",
  "Lima": "Peru",
  "Nairobi": "Kenya",
  "Oslo": "Norway",
  "Vienna": "Austria",
  "Niamey": "Niger",
  "Abuja": "Nigeria",
  "Athens": "Greece",
  "Ottawa": "Canada",
  "Rome": "Italy",
  "Warsaw": "Poland",
  "Lisbon": "Portugal",
  "Jakarta": "Indonesia",
}
FEW = ("Niamey", "Abuja", "Paris")
RELATION = {
  "relation": "country",
  "label": "country",
  "statements": ["[X] is the capital of [Y] ."],
  "questions": ["Which country is [X] the capital of?"],
}
WIDEN = """
import sys
from llama_cpp_side import widened
widened(*sys.argv[1:])
"""


@contextlib.contextmanager
def served(path, name):
  """Starts a server of a file on a free port; yields its endpoint."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  settings = ("--n_ctx=512", "--type_k=0", "--type_v=0", f"--model_alias={name}")
  command = [sys.executable, "-m", "llama_cpp.server", f"--model={path}", f"--port={port}"]
  server = subprocess.Popen(
    [*command, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  try:
    url = f"http://localhost:{port}/v1"
    wait_for(f"{url}/models", server)
    yield f"endpoint:{url}?model={name}&concurrency=1"
  finally:
    server.terminate()
    server.wait()


def wait_for(url, server, seconds=120):
  """Waits until a server answers."""
  end = time.monotonic() + seconds
  while time.monotonic() < end and server.poll() is None:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
      urllib.request.urlopen(url)
      return
    time.sleep(0.5)
  pytest.fail(f"{url} does not answer")


def widened(name, tmp_path_factory):
  """Returns a real model's file with weights in float32."""
  path = test_real_gguf.PATHS[name]
  if not path:
    pytest.skip(f"no {name}: give its .gguf as $FACTSHOCK_{name.upper()}")
  target = tmp_path_factory.mktemp("widened") / f"{name}.gguf"
  benchmarks = os.path.join(os.path.dirname(__file__), "benchmarks")
  subprocess.run(
    [sys.executable, "-c", WIDEN, path, target],
    env={**os.environ, "PYTHONPATH": benchmarks},
    check=True,
    capture_output=True,
  )
  return str(target)


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def both(request, tmp_path_factory):
  """Returns a name, the file, and the endpoint that serves it."""
  path = widened(request.param, tmp_path_factory)
  with served(path, request.param) as endpoint:
    yield request.param, path, endpoint


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
  folder = tmp_path_factory.mktemp("facts")
  rows = [{"subject": s, "relation": "country", "object": o} for s, o in COUNTRIES.items()]
  write(folder / "facts.jsonl", rows)
  # The server sorts all tokens anew for each token that it echoes: seconds a candidate.
  write(folder / "few.jsonl", [row for row in rows if row["subject"] in FEW])
  write(folder / "relations.jsonl", [RELATION])
  return folder


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def answers(model, facts, output, mode, length=8, name="facts.jsonl"):
  """Returns the rows that a model's answers are, asked by clozes."""
  options = AnswerOptions(
    mode,
    Prompting("cloze"),
    DecodingOptions(length),
    relations=str(facts / "relations.jsonl"),
    top=0,
  )
  asking.answer_facts(model, str(facts / name), str(output), options)
  return read(output)


def test_greedy_answers_are_those_of_our_own_reader(both, facts, tmp_path):
  _, path, endpoint = both
  own = answers(path, facts, tmp_path / "own.jsonl", "generate")
  theirs = answers(endpoint, facts, tmp_path / "theirs.jsonl", "generate")
  assert [row["prediction"] for row in theirs] == [row["prediction"] for row in own]
  for row, expected in zip(theirs, own):
    assert row["score"] == pytest.approx(expected["score"], abs=1e-2)


def test_ranking_is_that_of_our_own_reader_or_refused(both, facts, tmp_path):
  """Of a model without BOS this server gives each token the log-probability of the next place."""
  name, path, endpoint = both
  if name == "smollm2":
    with pytest.raises(UserError, match="log-probability of the place behind"):
      answers(endpoint, facts, tmp_path / "theirs.jsonl", "rank", name="few.jsonl")
    return
  own = answers(path, facts, tmp_path / "own.jsonl", "rank", name="few.jsonl")
  theirs = answers(endpoint, facts, tmp_path / "theirs.jsonl", "rank", name="few.jsonl")
  for row, expected in zip(theirs, own):
    scores = dict(expected["candidates"])
    assert row["prediction"] == expected["prediction"]
    for text, score in row["candidates"]:
      # The end of Niger, which Nigeria may go on after, is that of the likeliest next tokens.
      assert score == pytest.approx(scores[text], abs=0.1 if text == "Niger" else 1e-2)


def graph(model, facts, folder):
  """Returns the triples that a model's answers give, with their confidence."""
  folder.mkdir()
  rows = read(facts / "facts.jsonl")
  write(folder / "known.jsonl", rows[:10])
  write(folder / "queries.jsonl", [{**row, "object": None} for row in rows[10:]])
  api.extract(
    api.load(model),
    str(folder / "known.jsonl"),
    queries=str(folder / "queries.jsonl"),
    relations=str(facts / "relations.jsonl"),
    mode="greedy",
    prompt="cloze",
    max_tokens=8,
    output=str(folder / "graph"),
  )
  return [
    (row["subject"], row["object"], round(row["confidence"], 2), row["accepted"])
    for row in read(folder / "graph" / "triples.jsonl")
  ]


def test_a_graph_is_that_of_our_own_reader(both, facts, tmp_path):
  name, path, endpoint = both
  if name == "gemma3":
    pytest.skip("the same on SmolLM2, sooner")
  assert graph(endpoint, facts, tmp_path / "theirs") == graph(path, facts, tmp_path / "own")
