"""Counting over files: parts, formats, resuming, several processes, Beam, and bad input."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from factshock.facts import corpus_counts, counts, documents, entities
from factshock.runtime.errors import UserError

FACTS = [
  {"subject": f"Person {n}", "relation": "r", "object": f"Town {n % 7}"} for n in range(40)
] + [{"subject": "Brown", "relation": "r", "object": "Town 1"}]
FOUND = entities.entities_of(FACTS)


def lines(count=400):
  random = np.random.default_rng(0)
  return [
    f"Person {random.integers(45)} went to Town {random.integers(9)} — with a brown dog."
    for _ in range(count)
  ]


@pytest.fixture
def expected():
  return corpus_counts.count_part(lines(), entities.search_of(FOUND))


def same(found, expected):
  assert {name: value.tolist() for name, value in found.items()} == {
    name: value.tolist() for name, value in expected.items()
  }


def test_parts_of_a_text_file_give_what_the_whole_gives(expected, tmp_path, monkeypatch):
  monkeypatch.setattr(documents, "PART_BYTES", 1000)
  (tmp_path / "a.txt").write_text("\n".join(lines()[:350]) + "\n", encoding="utf-8")
  (tmp_path / "b.txt").write_text("\r\n".join(lines()[350:]), encoding="utf-8")
  assert len(documents.parts(str(tmp_path / "*.txt"))) > 10
  output = tmp_path / "counts.tsv"
  found = corpus_counts.count(str(tmp_path / "*.txt"), FOUND, str(output), 1)
  same(found, expected)
  read = counts.read_counts(output)
  assert read[("", "Town 1")] == expected["mentions"][FOUND.labels.index("Town 1")] > 0
  assert not (tmp_path / "counts.tsv.parts").exists()
  rows = [line.split("\t") for line in (tmp_path / "counts.facts.tsv").read_text().splitlines()[1:]]
  assert [int(row[2]) for row in rows] == expected["together"].tolist() and rows[0][:2] == [
    "Person 0",
    "Town 0",
  ]
  assert next(
    line for line in output.read_text().splitlines() if line.startswith("Brown\t")
  ).endswith("\tword")


def test_the_verb_counts_by_several_processes(expected, tmp_path):
  """In a process of its own, as its workers are forked: threads of JAX live in this one."""
  from factshock.facts import schema

  schema.write_facts(tmp_path / "facts.jsonl", FACTS)
  for number in range(4):
    (tmp_path / f"{number}.txt").write_text(
      "\n".join(lines()[100 * number : 100 * number + 100]), encoding="utf-8"
    )
  said = subprocess.run(
    [
      sys.executable,
      "-m",
      "factshock.count",
      f"--corpus={tmp_path}/*.txt",
      f"--facts={tmp_path}/facts.jsonl",
      f"--output={tmp_path}/counts.tsv",
      "--processes=3",
    ],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert "4 parts, 0 of them done before" in said and "400 documents" in said
  read = counts.read_counts(tmp_path / "counts.tsv")
  assert [read[("", label)] for label in FOUND.labels] == expected["mentions"].tolist()


def test_formats_hold_the_same_documents(expected, tmp_path):
  import pyarrow
  import pyarrow.parquet

  texts = lines()
  with gzip.open(tmp_path / "a.txt.gz", "wt", encoding="utf-8") as file:
    file.write("\n".join(texts))
  (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  (tmp_path / "b.json").write_bytes((tmp_path / "b.jsonl").read_bytes())
  (tmp_path / "c.tsv").write_text(
    "n\tsentence\n" + "".join(f"1\t{text}\n" for text in texts), encoding="utf-8"
  )
  pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "d.parquet")
  for name in ("a.txt.gz", "b.jsonl", "b.json", "c.tsv", "d.parquet"):
    same(
      corpus_counts.count(str(tmp_path / name), FOUND, str(tmp_path / "counts.tsv"), 1), expected
    )


def test_an_interrupted_count_goes_on(expected, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(documents, "PART_BYTES", 3000)
  path, output = tmp_path / "a.txt", str(tmp_path / "counts.tsv")
  path.write_text("\n".join(lines()), encoding="utf-8")
  original, seen = corpus_counts.count_part, []

  def stops(texts, search):
    if len(seen) == 3:
      raise KeyboardInterrupt
    seen.append(1)
    return original(texts, search)

  monkeypatch.setattr(corpus_counts, "count_part", stops)
  with pytest.raises(KeyboardInterrupt):
    corpus_counts.count(str(path), FOUND, output, 1)
  monkeypatch.setattr(corpus_counts, "count_part", original)
  same(corpus_counts.count(str(path), FOUND, output, 1), expected)
  assert "3 of them done before" in capsys.readouterr().out


def test_parts_of_other_entities_are_not_taken(tmp_path, monkeypatch, capsys):
  path, output = tmp_path / "a.txt", str(tmp_path / "counts.tsv")
  path.write_text("\n".join(lines()), encoding="utf-8")
  monkeypatch.setattr(corpus_counts, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    corpus_counts.count(str(path), FOUND, output, 1)
  with pytest.raises(KeyboardInterrupt):
    corpus_counts.count(str(path), entities.entities_of(FACTS[:5]), output, 1)
  assert "done anew" in capsys.readouterr().out


def test_bad_files_are_named(tmp_path):
  output = str(tmp_path / "counts.tsv")
  with pytest.raises(UserError, match="no such file"):
    corpus_counts.count(str(tmp_path / "none*.txt"), FOUND, output)
  whole = gzip.compress(("\n".join(lines(4000))).encode())
  (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match="cut.txt.gz: the gzip data are broken after line"):
    corpus_counts.count(str(tmp_path / "cut.txt.gz"), FOUND, output)
  (tmp_path / "latin.txt").write_bytes("good line\nZürich\n".encode("latin-1"))
  with pytest.raises(
    UserError, match="latin.txt:2: expected UTF-8 text, got the byte 0xfc at byte 11"
  ):
    corpus_counts.count(str(tmp_path / "latin.txt"), FOUND, output)
  (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n')
  with pytest.raises(
    UserError,
    match="rows.jsonl:1: expected text in a column text or sentence, got the columns body",
  ):
    list(documents.read(str(tmp_path / "rows.jsonl")))


def endings(text):
  """The same lines ended in several ways, with a byte order mark."""
  return "\ufeff" + text.replace("\n", "\r\n", 20).replace("\n", "\r", 3)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_lines_end_in_any_way(tmp_path, name):
  texts = lines(40)
  rows = [json.dumps({"text": text}) for text in texts] if name == "a.jsonl" else texts
  data = endings("\n".join(rows)).encode()
  (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  assert [text for text in documents.read(str(tmp_path / name)) if text] == texts


@pytest.mark.filterwarnings("ignore")
def test_beam_writes_the_same_files(tmp_path):
  pytest.importorskip("apache_beam", reason="factshock[beam] is not installed")
  from factshock.facts import beam_counts

  (tmp_path / "a.txt").write_text("\n".join(lines()[:200]), encoding="utf-8")
  (tmp_path / "b.txt").write_text(endings("\n".join(lines()[200:300])), encoding="utf-8")
  rows = [json.dumps({"text": text}) for text in lines()[300:]]
  (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(endings("\n".join(rows)).encode()))
  pattern = f"{tmp_path}/*.txt, {tmp_path}/*.gz"
  corpus_counts.count(pattern, FOUND, str(tmp_path / "alone.tsv"), 1)
  beam_counts.count(pattern, FACTS, False, str(tmp_path / "beam.tsv"), "DirectRunner", [])
  for end in (".tsv", ".facts.tsv"):
    assert (tmp_path / f"beam{end}").read_bytes() == (tmp_path / f"alone{end}").read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
  "name, message",
  [
    ("a.csv", "a.csv: with --runner expected text or .jsonl"),
    ("a[1].txt", "expected text or .jsonl files without"),
    ("none.txt", "none.txt: no such file"),
    ("hub:org/name", "hub:org/name: --runner counts in files alone"),
  ],
)
def test_beam_refuses_what_it_would_read_otherwise(tmp_path, name, message):
  pytest.importorskip("apache_beam", reason="factshock[beam] is not installed")
  from factshock.facts import beam_counts

  for file in ("a.csv", "a[1].txt"):
    (tmp_path / file).write_text("text\nPerson 1 went to Town 2\n")
  pattern = name if name.startswith("hub:") else str(tmp_path / name.replace("[1]", "*"))
  with pytest.raises(UserError, match=message):
    beam_counts.count(pattern, FACTS, False, str(tmp_path / "o.tsv"), "DirectRunner", [])
