"""Served models where a model is named: answer, known, rank, extract, and what goes wrong there."""

import json
import math

import numpy as np
import pytest
import stand_in_server
from stand_in_server import serving

from factshock import api, evaluate
from factshock.answering import asking, methods, preparing
from factshock.answering.asking import AnswerOptions, KnowledgeOptions
from factshock.answering.decoding import DecodingOptions
from factshock.answering.prompting import Prompting
from factshock.predictions import reading
from factshock.runtime.errors import UserError
from factshock.served import models, ranking

CITIES = ("Albany", "New York", "New York City", "Boston", "Reno")
RELATION = {
  "relation": "city",
  "label": "city",
  "statements": ["[X] lives in [Y] ."],
  "questions": ["Where does [X] live?"],
}
CLOZE = Prompting("cloze")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  stand_in_server.ask_quickly(monkeypatch)


@pytest.fixture
def folder(tmp_path):
  facts = [
    {"subject": f"Person {index}", "relation": "city", "object": CITIES[index % len(CITIES)]}
    for index in range(23)
  ]
  write(tmp_path / "facts.jsonl", facts)
  write(tmp_path / "relations.jsonl", [RELATION])
  return tmp_path


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def answer(source, folder, mode="generate", prompting=CLOZE, name="out", **options):
  """Returns the rows that `factshock answer` writes."""
  options = AnswerOptions(
    mode, prompting, DecodingOptions(8), relations=str(folder / "relations.jsonl"), **options
  )
  output = folder / f"{name}.jsonl"
  asking.answer_facts(source, str(folder / "facts.jsonl"), str(output), options)
  return read(output)


def test_what_a_server_was_asked_stands_beside_the_answers(folder, monkeypatch):
  monkeypatch.setattr(preparing, "_SERVED_PART", 7)
  with serving() as server:
    answer(server.source(), folder)
  spent = json.loads((folder / "out.jsonl.spent.json").read_text())
  assert spent["requests"] == 23
  assert spent["tokens_asked"] > 23 and spent["tokens_answered"] > 0
  assert spent["seconds"] >= 0


def log_sum(values):
  return math.log(sum(map(math.exp, values)))


def expected_score(prompt, city, stops):
  """Returns what the stand-in's model gives a candidate, its end where another goes on after it."""
  total, _ = stand_in_server.log_p(prompt.encode(), f" {city}".encode())
  if city == "New York":
    top = stand_in_server.top(f"{prompt} {city}".encode(), ranking.LIKELIEST)
    total += log_sum([log_p for text, log_p in top.items() if text in stops])
  return total


def test_ranking_gives_each_candidate_its_log_probability_and_its_end_where_another_goes_on():
  prompts = ["Ann lives in", "Bob lives in"]
  stops = ("\n", "a", "e")
  with serving() as server:
    model = models.open_endpoint(server.source())
    scored = ranking.scores(model, prompts, [CITIES, CITIES[::-1]], stops)
  for prompt, cities, scores in zip(prompts, (CITIES, CITIES[::-1]), scored):
    expected = [expected_score(prompt, city, stops) for city in cities]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_answers_are_ranked_as_the_server_says(folder):
  with serving() as server:
    rows = answer(server.source(), folder, "rank", top=0)
  assert len(rows) == 23 and rows[0]["among"] == len(CITIES) and rows[0]["arm"] == "stand-in"
  for row in rows:
    scores = dict(row["candidates"])
    prompt = f"{row['subject']} lives in"
    for city in ("Albany", "Boston"):
      assert scores[city] == pytest.approx(expected_score(prompt, city, ()), rel=1e-5)
    assert row["prediction"] == max(scores, key=scores.get)


def test_parts_are_kept_while_the_server_is_away_and_the_same_command_goes_on(folder, monkeypatch):
  monkeypatch.setattr(preparing, "_SERVED_PART", 4)
  with serving() as server:
    whole = answer(server.source(), folder, name="whole")
    asked = len(server.bodies)
    server.settings.lasting = None
    server.bodies.clear()
    real = stand_in_server._Handler._problem

    def problem(self, body, chat):
      if len(self.server.stand_in.bodies) > 11:
        return 403, {"error": {"message": "out of credit"}}
      return real(self, body, chat)

    monkeypatch.setattr(stand_in_server._Handler, "_problem", problem)
    with pytest.raises(UserError, match="out of credit"):
      answer(server.source("&concurrency=1"), folder)
    assert not (folder / "out.jsonl").exists()
    monkeypatch.setattr(stand_in_server._Handler, "_problem", real)
    server.bodies.clear()
    assert answer(server.source("&concurrency=3"), folder) == whole  # at another rate, too
    assert len(server.bodies) < asked


def test_what_is_known_is_asked_by_shots(folder):
  options = KnowledgeOptions(
    Prompting("question", 2, str(folder / "facts.jsonl")),
    max_tokens=4,
    sets=2,
    samples=3,
    relations=str(folder / "relations.jsonl"),
  )
  output = folder / "known.jsonl"
  with serving() as server:
    asking.assess_knowledge(server.source(), str(folder / "facts.jsonl"), str(output), options)
    prompt = server.bodies[0]["prompt"]
  known = read(output)
  assert len(known) == 23 and {row["known"] for row in known} <= {"Unknown", "WeaklyKnown"}
  assert prompt.count("Q: ") == 3 and prompt.endswith("A:")


def test_a_chat_is_asked_the_question_and_its_answers_may_have_no_score(folder):
  with serving(logprobs="none") as server:
    rows = answer(server.source("&api=chat"), folder, prompting=Prompting())
    message = server.bodies[-1]["messages"][-1]["content"]
  assert message.startswith("Where does Person") and "score" not in rows[0]
  assert len(reading.read(str(folder / "out.jsonl"))) == 23


@pytest.mark.parametrize(
  "rest, form, message",
  [
    ("&api=chat", "cloze", "--prompt=cloze: a chat server answers messages"),
    ("", "chat", "add api=chat"),
  ],
)
def test_forms_that_a_server_is_not_asked_in_are_refused(folder, rest, form, message):
  with serving() as server, pytest.raises(UserError, match=message):
    answer(server.source(rest), folder, prompting=Prompting(form))


def test_what_a_server_cannot_do_is_said_before_anything_is_written(folder):
  with serving(echo="ignored") as server:
    with pytest.raises(UserError, match="--method=greedy"):
      answer(server.source(), folder, "rank")
    with pytest.raises(UserError, match="--answer_dtype: not with a served model"):
      answer(server.source(), folder, dtype="int8")
  assert not (folder / "out.jsonl").exists()


def test_weights_of_a_served_model_are_not_to_be_had():
  with pytest.raises(UserError, match="the weights of a served model are not here"):
    api.convert("endpoint:http://localhost:1/v1?model=a", "out", "huggingface")


def test_choices_are_scored_by_letters_and_by_texts():
  fact = {
    "subject": "s",
    "relation": "city",
    "object": "Reno",
    "question": "Where?",
    "choices": ["Reno", "Boston"],
  }
  with serving() as server:
    model = models.open_endpoint(server.source())
    by_letter, by_text = (
      methods.choice_scores(model, [fact], ["Answer:"], letters=letters, batch_size=1)
      for letters in (True, False)
    )
  letters = [stand_in_server.log_p(b"Answer:", f" {name}".encode())[0] for name in "AB"]
  texts = [stand_in_server.log_p(b"Answer:", f" {name}".encode())[0] for name in fact["choices"]]
  np.testing.assert_allclose(by_letter, [letters])
  np.testing.assert_allclose(by_text, [[texts[0] / 4, texts[1] / 6]])


def test_a_graph_is_extracted_from_what_a_server_answers(folder):
  queries = [{"subject": f"Asked {index}", "relation": "city"} for index in range(7)]
  write(folder / "queries.jsonl", queries)
  with serving() as server:
    model = api.load(server.source())
    assert repr(model).startswith("<served model endpoint:") and model.parameters is None
    graph = api.extract(
      model,
      str(folder / "facts.jsonl"),
      queries=str(folder / "queries.jsonl"),
      relations=str(folder / "relations.jsonl"),
      prompt="cloze",
      output=str(folder / "graph"),
    )
  summary = json.loads((folder / "graph" / "extraction.json").read_text())
  assert summary["run"]["model"] == server.source() and summary["counts"]["queries"] == 7
  assert summary["asked"]["method"] == "rank" and graph is not None


@pytest.mark.parametrize(
  "given, expected",
  [
    (["--model_args", "checkpoint=endpoint:http://h/v1?model=m"], "factshock_served"),
    (["--model_args=checkpoint=endpoint:http://h/v1?model=m,seed=1"], "factshock_served"),
    (["--model_args", "checkpoint=runs/mine"], "factshock"),
  ],
)
def test_the_harness_gets_the_model_of_served_models_for_an_endpoint(given, expected):
  arguments = evaluate.arguments(given)
  assert arguments[arguments.index("--model") + 1] == expected


def test_the_harness_scores_and_generates_by_a_server():
  lm_eval = pytest.importorskip("lm_eval.api.instance")
  from factshock.harness.served_model import ServedLM

  def requests(*arguments):
    return [lm_eval.Instance("x", {}, given, index) for index, given in enumerate(arguments)]

  with serving() as server:
    served = ServedLM(server.source())
    pairs = [("The city is", " Reno"), ("The city is ", "Boston")]
    scored = served.loglikelihood(requests(*pairs))
    (text,) = served.generate_until(requests(("The city is", {"until": ["\n"], "max_gen_toks": 9})))
  for (log_p, _), city in zip(scored, ("Reno", "Boston")):
    assert log_p == pytest.approx(stand_in_server.log_p(b"The city is", f" {city}".encode())[0])
  made = stand_in_server.generate("The city is", 9, ("\n",), stand_in_server.greedy)
  assert text == bytes(byte for byte, _ in made).decode().split("\n")[0].strip()
