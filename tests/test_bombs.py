"""Small files that would fill the memory or the stack: a clear error, in bounded memory."""

import gzip
import json
import subprocess
import sys

import pytest
from fuzz import frame

from factshock.facts import counts, documents, queries, relations, schema, sources
from factshock.knowledge_graph import tables
from factshock.predictions import reading, rows
from factshock.runtime import files, json_text
from factshock.runtime.errors import UserError

READERS = {
  "facts.jsonl": schema.read_facts,
  "facts.csv": schema.read_facts,
  "facts.tsv": schema.read_facts,
  "popqa.csv": lambda path: sources.read(f"popqa:{path}"),
  "trex.jsonl": lambda path: sources.read(f"trex:{path}"),
  "relations.jsonl": relations.read_relations,
  "queries.jsonl": queries.read,
  "subjects.txt": lambda path: queries.cross(path, ["r"]),
  "counts.tsv": counts.read_counts,
  "predictions.jsonl": lambda path: reading.read(str(path)),
  "rows.jsonl": lambda path: rows.read_all_rows(str(path)),
  "corpus.txt": lambda path: list(documents.read(str(path))),
  "corpus.jsonl": lambda path: list(documents.read(str(path))),
}


def outcome(read, path):
  return frame.outcome_of(frame.Case(lambda: read(path)))


@pytest.mark.parametrize("name", READERS)
def test_one_line_of_gigabytes_in_a_gz_of_megabytes(name, tmp_path):
  path = tmp_path / f"{name}.gz"
  member = gzip.compress(b"x" * (1 << 24))
  path.write_bytes(member * 256)  # 4 GB
  assert path.stat().st_size < 5e6

  assert outcome(READERS[name], path) == ("refused", "")
  with pytest.raises(UserError, match=rf"{name}.gz.*1.*line"):
    READERS[name](path)


@pytest.mark.parametrize("name", [name for name in READERS if not name.startswith("corpus")])
def test_a_line_of_ten_megabytes(name, tmp_path):
  path = tmp_path / name
  path.write_bytes(b'{"subject": "' + b"x" * 10_000_000 + b'"}')

  with pytest.raises(UserError) as caught:
    READERS[name](path)
  assert len(str(caught.value)) < 1000


def test_a_document_of_ten_megabytes_is_a_document(tmp_path):
  text = "word " * 2_000_000
  (tmp_path / "a.txt").write_text(text, encoding="utf-8")
  (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")

  assert list(documents.read(str(tmp_path / "*"))) == [text, text]


def test_a_long_line_of_plain_text_is_refused_in_its_part(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "LONGEST_DOCUMENT", 1000)
  path = tmp_path / "corpus.txt"
  path.write_text(f"short\n{'x' * 5000}\n", encoding="utf-8")

  with pytest.raises(UserError, match="corpus.txt: byte 6: expected a line of at most 1,000"):
    list(documents.read(str(path)))


@pytest.mark.parametrize("depth", [1000, 100_000])
@pytest.mark.parametrize("name", [name for name in READERS if name.endswith("jsonl")])
def test_json_nested_deep(name, depth, tmp_path):
  path = tmp_path / name
  path.write_text(f'{{"subject": "a", "extra": {"[" * depth}{"]" * depth}}}', encoding="utf-8")

  assert outcome(READERS[name], path) == ("refused", "")
  with pytest.raises(UserError, match=rf"{name}:1: .*nested over"):
    READERS[name](path)


def test_a_row_of_many_lists_is_not_deep():
  row = {"candidates": [[f"a{index}", -index] for index in range(2000)]}

  assert json_text.loads(json.dumps(row)) == row
  with pytest.raises(ValueError, match="nested over 500"):
    json_text.loads("[" * 501 + "]" * 501)
  json_text.loads("[" * 499 + "]" * 499)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith("jsonl")])
def test_integers_of_thousands_of_digits(name, tmp_path):
  path = tmp_path / name
  row = f'{{"subject": "a", "relation": "r", "object": "b", "score": {"9" * 5000}}}'
  path.write_text(row, encoding="utf-8")

  assert outcome(READERS[name], path) == ("refused", "")
  with pytest.raises(UserError, match=f"{name}:1"):
    READERS[name](path)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400, "NaN"])
@pytest.mark.parametrize("column", ["score", "popularity", "seed", "step"])
def test_numbers_beyond_all_bounds(column, number, tmp_path):
  path = tmp_path / "predictions.jsonl"
  row = '{"subject": "a", "relation": "r", "object": "b", "prediction": "b", "%s": %s}'
  path.write_text(row % (column, number), encoding="utf-8")

  assert outcome(READERS["predictions.jsonl"], path)[0] in frame.GOOD


def test_what_a_terminal_cannot_print_is_escaped():
  code = (
    "import sys; from factshock.runtime import console\n"
    "console.run(lambda argv: print('東京 O’Brien'))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
    capture_output=True,
    text=True,
  )

  assert (done.returncode, done.stdout) == (0, "\\u6771\\u4eac O\\u2019Brien\n"), done.stderr


def test_lines_that_a_spreadsheet_would_run_are_counted():
  has_formula = tables._has_formula

  assert has_formula('"=cmd|\' /C calc\'!A0","x"\n') and has_formula('"x","@SUM(1)"\n')
  assert has_formula('"x","-5"\n') and has_formula('"x","+1"\n')
  assert not has_formula('"x","a=b"\n') and not has_formula('"says ""=1""","x"\n')
