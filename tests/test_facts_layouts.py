"""Tables and data sets as their authors and other programs lay them out."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.facts import counts, listed, schema, sources
from factshock.runtime.errors import UserError

POPQA_TSV = """\
id	subj	prop	obj	s_aliases	o_aliases	s_uri	o_uri	s_pop	o_pop	question	possible_answers
1	Pat Doe	occupation	politician	"[""P. Doe""]"	"[""pol""]"	e/Q1	e/Q2	142	25692	\
What is Pat Doe's occupation?	"[""politician"", ""political leader"", ""pol""]"
2	\"""Heroes""\"	composer	Lee Roe	[]	[]	e/Q3	e/Q4	10	20	\
"Who was the composer of ""Heroes""?"	"[""Lee Roe""]"
"""
POPQA_CSV = """\
subj,prop,obj,s_pop,question,possible_answers
Pat Doe,occupation,politician,10,What is Pat Doe's occupation?,"['politician', ""pol""]"
"""
ENTITYQUESTIONS = [
  {"question": "Who founded Acme Tools?", "answers": ["Jo Example"]},
  {"question": "Who founded Beta Games?", "answers": ["Ann Sample", "Bo Sample"]},
]


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")
  return path


def triples(spec):
  return [(f["subject"], f["relation"], f["object"]) for f in sources.read(spec).facts]


def test_popqa_as_published(tmp_path):
  facts = sources.read(f"popqa:{write(tmp_path / 'popQA.tsv', POPQA_TSV)}").facts
  assert [(f["subject"], f["relation"], f["object"]) for f in facts] == [
    ("Pat Doe", "occupation", "politician"),
    ('"Heroes"', "composer", "Lee Roe"),
  ]
  assert facts[0]["aliases"] == ["political leader", "pol"]
  assert facts[0]["popularity"] == 142 and facts[0]["subject_id"] == "Q1"
  assert facts[1]["question"] == 'Who was the composer of "Heroes"?'


def test_popqa_with_lists_as_python_prints_them(tmp_path):
  (fact,) = sources.read(f"popqa:{write(tmp_path / 'popqa.csv', POPQA_CSV)}").facts
  assert fact["object"] == "politician" and fact["aliases"] == ["pol"]


@pytest.mark.parametrize("indent", [4, None])
def test_entityquestions_as_published(tmp_path, indent):
  text = json.dumps(ENTITYQUESTIONS, indent=indent)
  path = write(tmp_path / "dataset" / "dev" / "P112.dev.json", text)
  expected = [("Acme Tools", "P112", "Jo Example"), ("Beta Games", "P112", "Ann Sample")]
  assert triples(f"entityquestions:{path}") == expected
  assert sources.read(f"entityquestions:{path}").facts[1]["aliases"] == ["Bo Sample"]
  assert triples(f"entityquestions:{path.parent}") == expected
  other = json.dumps([{"question": "Where was Ada born?", "answers": ["Bath"]}])
  write(tmp_path / "dataset" / "test" / "P19.test.json", other)
  assert triples(f"entityquestions:{tmp_path}/dataset?split=dev") == expected
  assert triples(f"entityquestions:{tmp_path}/dataset") == [("Ada", "P19", "Bath")]
  with pytest.raises(UserError, match=r"expected files P\*.train.json.* got dev, test"):
    sources.read(f"entityquestions:{tmp_path}/dataset?split=train")


def test_pararel_files_named_after_their_relation(tmp_path):
  row = json.dumps({"sub_label": "Ada", "obj_label": "Bath", "sub_uri": "Q1"}) + "\n"
  path = write(tmp_path / "trex_lms_vocab" / "P19.jsonl", row)
  write(tmp_path / "trex_lms_vocab" / "P20.jsonl", row)
  assert triples(f"pararel:{path}") == [("Ada", "P19", "Bath")]
  both = [("Ada", "P19", "Bath"), ("Ada", "P20", "Bath")]
  assert triples(f"pararel:{path.parent}") == both
  with pytest.raises(UserError, match="named after one such as P19.jsonl"):
    sources.read(f"pararel:{write(tmp_path / 'all.jsonl', row)}")


def test_lama_with_its_relations_one_folder_up(tmp_path, capsys):
  row = {"uuid": "u", "predicate_id": "P19", "sub_label": "Ada", "obj_label": "Bath"}
  path = write(tmp_path / "data" / "TREx" / "P19.jsonl", json.dumps(row) + "\n")
  relation = {"relation": "P19", "template": "[X] was born in [Y] .", "type": "N-1"}
  write(tmp_path / "data" / "relations.jsonl", json.dumps(relation) + "\n")
  for spec in (f"trex:{path}", f"trex:{path.parent}"):
    assert triples(spec) == [("Ada", "P19", "Bath")]
    assert sources.read(spec).relations["P19"]["statements"] == ["[X] was born in [Y] ."]
  used = tmp_path / "data" / "relations.jsonl"
  assert capsys.readouterr().err.splitlines() == [
    f"  {place}: templates of {used}, where no other relations are given"
    for place in (path, path.parent)
  ]


def test_a_wholly_quoted_tsv_cell_is_unquoted(tmp_path):
  text = 'subject\trelation\tobject\n"""Heroes"""\tperformer\tLee Roe\n"Bath, UK"\tr\t"a" and "b"\n'
  facts = schema.read_facts(write(tmp_path / "q.tsv", text))
  assert [(f["subject"], f["object"]) for f in facts] == [
    ('"Heroes"', "Lee Roe"),
    ("Bath, UK", '"a" and "b"'),
  ]


@given(st.lists(st.text(st.sampled_from(['"', "a", " ", ","]), min_size=1), min_size=2, max_size=4))
def test_tsv_is_read_as_pandas_and_we_write_it(tmp_path_factory, cells):
  path = tmp_path_factory.mktemp("tsv") / "a.tsv"
  path.write_text(schema.tsv_line(cells), encoding="utf-8")
  assert next(schema.tsv_records(path))[1] == cells
  text = io.StringIO()
  csv.writer(text, delimiter="\t", lineterminator="\n").writerow(cells)
  path.write_text(text.getvalue(), encoding="utf-8")
  assert next(schema.tsv_records(path))[1] == cells


def test_counts_of_names_in_quotes_come_back(tmp_path):
  given_counts = {("", '"Heroes"'): 3, ("", "Heroes"): 5}
  counts.write_counts(tmp_path / "c.tsv", given_counts)
  assert counts.read_counts(tmp_path / "c.tsv") == given_counts


def test_csv_cells_longer_than_python_allows_by_default(tmp_path):
  question = "why " * 50_000
  text = f'subject,relation,object,question\nAda,r,Bath,"{question}?"\n'
  (fact,) = schema.read_facts(write(tmp_path / "long.csv", text))
  assert fact["question"] == question + "?"


def test_a_json_array_is_read_as_lines_are(tmp_path):
  rows = [{"subject": name, "relation": "r", "object": "o"} for name in ("a", "b")]
  assert schema.read_facts(write(tmp_path / "a.json", json.dumps(rows, indent=2))) == rows
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  assert schema.read_facts(write(tmp_path / "b.json", lines)) == rows
  rows[1]["object"] = 3
  with pytest.raises(UserError, match=r"a.json:7: expected a non-empty string in column `object`"):
    schema.read_facts(write(tmp_path / "a.json", json.dumps(rows, indent=2)))
  for text, message in [
    ("[1]", ":1: expected a JSON object"),
    ('[\n{"a": 1},\n', ":3: expected"),
    ("[" * 2000, "nested over"),
  ]:
    with pytest.raises(UserError, match=message):
      schema.read_facts(write(tmp_path / "a.json", text))


@pytest.mark.parametrize(
  "text, texts",
  [
    ('["a", "b c"]', ["a", "b c"]),
    ("['a', \"b's\"]", ["a", "b's"]),
    ("[]", []),
    ("a|b c", ["a", "b c"]),
    ("Bath", ["Bath"]),
    ("['a' 'b']", None),  # numpy's way: Python would join the two
    ("['a', 3]", None),
    ("[a, b]", None),
    ("a;b", None),
    ("3", None),
    ("{'a': 1}", None),
    ("[" * 3000, None),
  ],
)
def test_lists_in_cells(text, texts):
  assert listed.texts(text) == texts
