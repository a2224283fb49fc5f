"""Files of facts: what is read is what was written, and bad input is named by file and line."""

import gzip
import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.facts import schema
from factshock.runtime.errors import UserError

FACTS = [
  {
    "subject": "Marat Makhmutov",
    "relation": "born_in",
    "object": "Moscow",
    "aliases": ["Moscow", "Moskva, Russia"],
    "subject_id": "Q1",
    "object_id": "Q649",
    "popularity": 12.5,
    "question": 'where, "exactly" ?',
    "choices": ["Moscow", "Baku"],
  },
  {"subject": "Ana Čop", "relation": "speaks", "object": "Slovene"},
]
FORMATS = ["jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "tsv.gz", "parquet"]
BASE = '{"subject": "a", "relation": "r", "object": "o"'


def write(path, text):
  path.write_text(text, encoding="utf-8")
  return path


def message(path):
  with pytest.raises(UserError) as caught:
    schema.read_facts(path)
  return str(caught.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_facts_survive_writing_and_reading(tmp_path, suffix):
  path = tmp_path / "deep" / f"facts.{suffix}"
  schema.write_facts(path, FACTS)
  assert schema.read_facts(path) == FACTS


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\x00")
names = st.text(letters, min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=30, deadline=None)
@given(
  rows=st.lists(
    st.fixed_dictionaries(
      {"subject": names, "relation": names, "object": names},
      optional={
        "aliases": st.lists(names, max_size=2),
        "question": names,
        "popularity": st.floats(allow_nan=False, allow_infinity=False),
      },
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda row: (row["subject"], row["relation"], row["object"]),
  )
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_any_text_survives_every_format(tmp_path_factory, suffix, rows):
  path = tmp_path_factory.mktemp("facts") / f"facts.{suffix}"
  schema.write_facts(path, rows)
  assert schema.read_facts(path) == rows


def test_other_columns_are_carried_along(tmp_path):
  facts = [dict(FACTS[1], evidence={"page": 3}, note="x"), dict(FACTS[0], note="")]
  schema.write_facts(tmp_path / "facts.jsonl", facts)
  assert schema.read_facts(tmp_path / "facts.jsonl") == facts
  schema.write_facts(tmp_path / "facts.csv", facts)
  assert [row["note"] for row in schema.read_facts(tmp_path / "facts.csv")] == ["x", ""]


def test_null_and_empty_cells_mean_not_given_and_text_stays_as_it_is(tmp_path):
  path = write(
    tmp_path / "f.jsonl",
    BASE + ', "aliases": null, "popularity": 3}\n\n' + '{"subject": " a ", '
    '"relation": "r", "object": "o"}\n',
  )
  assert schema.read_facts(path) == [
    {"subject": "a", "relation": "r", "object": "o", "popularity": 3.0},
    {"subject": " a ", "relation": "r", "object": "o"},
  ]
  path = write(
    tmp_path / "f.csv", 'subject,relation,object,popularity,aliases\na,r,o,,\nb,r,"o\np",1e3,[]\n'
  )
  assert schema.read_facts(path) == [
    {"subject": "a", "relation": "r", "object": "o"},
    {"subject": "b", "relation": "r", "object": "o\np", "popularity": 1000.0, "aliases": []},
  ]


def test_quotes_in_tsv_are_text(tmp_path):
  path = write(
    tmp_path / "f.tsv", 'relation\tsubject\tobject\naccordion\t"Weird Al" Yankovic\t"x\n'
  )
  assert schema.read_facts(path) == [
    {"relation": "accordion", "subject": '"Weird Al" Yankovic', "object": '"x'}
  ]


@pytest.mark.parametrize(
  "line, expected",
  [
    ("{nonsense", "expected a JSON object, got '{nonsense'"),
    ("[1]", "expected a JSON object, got '[1]'"),
    (
      '{"subject": "a", "relation": "r"}',
      "expected a column `object`, got the columns subject, relation",
    ),
    (
      '{"subject": "a", "relation": "r", "object": " "}',
      "non-empty string in column `object`, got ' '",
    ),
    (
      '{"subject": 5, "relation": "r", "object": "o"}',
      "non-empty string in column `subject`, got 5",
    ),
    (BASE + ', "popularity": NaN}', "expected a finite number in column `popularity`, got nan"),
    (BASE + ', "popularity": true}', "expected a finite number in column `popularity`, got True"),
    (BASE + ', "popularity": "3"}', "expected a finite number in column `popularity`, got '3'"),
    (
      BASE + ', "popularity": 1' + "0" * 400 + "}",
      "expected a finite number in column `popularity`",
    ),
    (BASE + ', "popularity": 1' + "0" * 5000 + "}", "expected a JSON object"),
    (
      BASE + ', "aliases": "x"}',
      "expected a list of non-empty strings in column `aliases`, got 'x'",
    ),
    (BASE + ', "aliases": ["x", ""]}', "expected a list of non-empty strings in column `aliases`"),
    (BASE + ', "note": "\\ud800"}', "expected text that UTF-8 can hold"),
    ("[" * 100000, "expected a JSON object"),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, expected):
  path = write(
    tmp_path / "f.jsonl", '{"subject": "z", "relation": "r", "object": "o"}\n' + line + "\n"
  )
  assert message(path).startswith(f"{path}:2: ")
  assert expected in message(path)


@pytest.mark.parametrize(
  "text, where, expected",
  [
    (
      "subject,relation\na,r\n",
      ":1: ",
      "columns subject, relation, object, got ['subject', 'relation']",
    ),
    ("\na,r,o\n", ":1: ", "got []"),
    ("subject;relation;object\na;r;o\n", ":1: ", "expected commas between cells (.csv)"),
    ("subject,relation,object,object\n", ":1: ", "each column once"),
    ("subject,relation,object\na,r,o\na,r\n", ":3: ", "expected 3 cells as in the header, got 2"),
    ('subject,relation,object\na,r,"o\np"\nb,r,"o\n', ":4: ", "malformed line"),
    (
      "subject,relation,object,popularity\na,r,o,many\n",
      ":2: ",
      "number in column `popularity`, got 'many'",
    ),
    (
      "subject,relation,object,popularity\na,r,o,1_000\n",
      ":2: ",
      "in column `popularity`, got '1_000'",
    ),
    (
      "subject,relation,object,popularity\na,r,o,inf\n",
      ":2: ",
      "a finite number in column `popularity`",
    ),
    (
      "subject,relation,object,aliases\na,r,o,b;c\n",
      ":2: ",
      "list of texts (JSON, a Python list, or texts with | between them) in column `aliases`",
    ),
    (
      "subject,relation,object,aliases\na,r,o,3\n",
      ":2: ",
      "list of non-empty strings in column `aliases`",
    ),
  ],
)
def test_a_bad_table_is_named(tmp_path, text, where, expected):
  path = write(tmp_path / "f.csv", text)
  assert message(path).startswith(f"{path}{where}")
  assert expected in message(path)


@pytest.mark.parametrize(
  "suffix, text",
  [
    ("jsonl", "\n"),
    ("csv", "subject,relation,object\n\n"),
    ("tsv", "subject\trelation\tobject\n\n"),
  ],
)
def test_empty_files_are_refused(tmp_path, suffix, text):
  assert "got an empty file" in message(write(tmp_path / f"f.{suffix}", ""))
  assert "got an empty file" in message(write(tmp_path / f"g.{suffix}", text))


def test_duplicates_name_both_lines(tmp_path):
  path = write(tmp_path / "f.jsonl", BASE + "}\n\n" + BASE + ', "popularity": 2}\n')
  assert message(path) == (
    f"{path}:3: expected each fact once, got ('a', 'r', 'o') again (first in line 1); remove one"
  )


def test_broken_files_are_named(tmp_path):
  assert "ends in .jsonl" in message(tmp_path / "facts.txt")
  assert "ends in .jsonl" in message(tmp_path / "facts.parquet.gz")
  assert "cannot be read" in message(tmp_path / "absent.jsonl")
  (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress((BASE + "}\n").encode())[:-9])
  assert "gzip" in message(tmp_path / "cut.jsonl.gz")
  (tmp_path / "latin.csv").write_bytes("subject,relation,object\ncafé,r,o\n".encode("latin-1"))
  assert "UTF-8" in message(tmp_path / "latin.csv")
  assert "expected a parquet file" in message(write(tmp_path / "f.parquet", "text"))
  assert "expected a parquet file" in message(tmp_path / "absent.parquet")


def test_parquet_errors_name_column_and_row(tmp_path):
  import pyarrow
  import pyarrow.parquet

  pyarrow.parquet.write_table(
    pyarrow.table({"subject": ["a"], "object": ["o"]}), tmp_path / "f.parquet"
  )
  assert "subject, relation, object, got ['subject', 'object']" in message(tmp_path / "f.parquet")
  table = pyarrow.table({"subject": ["a", "b"], "relation": ["r", "r"], "object": ["o", None]})
  pyarrow.parquet.write_table(table, tmp_path / "g.parquet")
  assert ": row 2: expected a non-empty string in column `object`" in message(
    tmp_path / "g.parquet"
  )


@pytest.mark.parametrize(
  "facts, suffix, expected",
  [
    ([], "jsonl", "at least one fact"),
    ([{"subject": "a"}], "csv", "fact 1: expected a column `relation`"),
    ([FACTS[1], FACTS[1]], "jsonl", "(first in fact 1)"),
    ([dict(FACTS[1], popularity=math.inf)], "parquet", "finite"),
    ([dict(FACTS[1], subject="a\tb")], "tsv", "write .jsonl instead"),
    ([dict(FACTS[1], subject="a\rb")], "csv", "write .jsonl instead"),
    ([dict(FACTS[1], subject="a\ud800b")], "jsonl", "UTF-8"),
    ([dict(FACTS[1], note={1, 2})], "jsonl", "text, numbers and lists"),
    ([dict(FACTS[0], note=1), dict(FACTS[1], note="x")], "parquet", "one type"),
  ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, facts, suffix, expected):
  with pytest.raises(UserError, match=re.escape(expected)):
    schema.write_facts(tmp_path / f"f.{suffix}", facts)
  assert list(tmp_path.iterdir()) == []


def test_check_facts_counts_unknown_relations():
  schema.check_facts(FACTS, {"born_in": {}, "speaks": {}}, "facts.jsonl")
  expected = r"facts.jsonl: fact 2 \('Ana Čop'\).* relations \(born_in\), got 'speaks'; 1 of 2"
  with pytest.raises(UserError, match=expected):
    schema.check_facts(FACTS, {"born_in": {}}, "facts.jsonl")


def test_facts_import_no_heavy_library():
  code = (
    "import sys, factshock.facts.schema, factshock.facts.relations, factshock.facts.counts, "
    "factshock.facts.world, factshock.facts.splits; "
    "heavy = {'jax', 'pyarrow', 'datasets', 'transformers', 'scipy'}; print(heavy & "
    "set(sys.modules))"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert out.stdout.strip() == "set()", out.stderr


@pytest.mark.parametrize("text", ['[{"subject": "a"}]', "[\n{}\n]"])
def test_an_array_in_a_file_of_lines_is_told_the_name_that_it_should_have(tmp_path, text):
  told = message(write(tmp_path / "facts.jsonl", text))
  assert told.endswith("a file that is one JSON array has a name that ends with .json")
