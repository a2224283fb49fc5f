"""Text files as others write them: marks, compressions, line ends, bytes that are no UTF-8."""

import bz2
import gzip
import io
import lzma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factshock.facts import documents, queries, schema
from factshock.runtime import files
from factshock.runtime.errors import UserError

TEXT = "Zürich\n東京\n\nlast"
PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def error_of(path):
  with pytest.raises(UserError) as caught:
    list(files.lines(path))
  return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ending", PACKERS)
def test_lines_are_the_same_however_written(tmp_path, ending, mark, end):
  path = tmp_path / f"a.txt{ending}"
  path.write_bytes(PACKERS[ending]((mark + TEXT.replace("\n", end)).encode()))
  assert list(files.lines(path)) == list(enumerate(TEXT.split("\n"), 1))
  assert files.read_text(path) == TEXT


@pytest.mark.parametrize("ending", ["", *files.COMPRESSIONS])
def test_what_is_written_is_read_again_and_equal_bytes_each_time(tmp_path, ending):
  paths = [tmp_path / f"{name}.txt{ending}" for name in "ab"]
  for path in paths:
    with files.atomic_write(path) as file:
      file.write(TEXT * 1000)
  assert files.read_text(paths[0]) == TEXT * 1000
  assert paths[0].read_bytes() == paths[1].read_bytes()
  assert bool(ending) == (paths[0].stat().st_size < 1000)


@pytest.mark.parametrize("ending", files.COMPRESSIONS)
def test_cut_and_misnamed_compressions_are_one_error(tmp_path, ending):
  path = tmp_path / f"a.txt{ending}"
  with files.atomic_write(path) as file:
    file.write("".join(f"line {number}\n" for number in range(5000)))
  path.write_bytes(path.read_bytes()[:-9])
  assert str(path) in error_of(path)
  path.write_text("this is not compressed, whatever its name says\n" * 9, encoding="utf-8")
  assert "after line 0" in error_of(path)


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_byte_that_is_no_utf8_is_named_with_its_line(tmp_path, ending, end):
  path = tmp_path / f"a.txt{ending}"
  good = end.join(b"line %d" % number for number in range(1, 30000))
  path.write_bytes(PACKERS[ending](good + end + "Zürich".encode("latin-1") + end))
  position = len(good) + len(end) + 1
  expected = f"{path}:30000: expected UTF-8 text, got the byte 0xfc at byte {position} of the file"
  assert error_of(path).startswith(expected)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", "é".encode(), "東".encode()])), st.data())
def test_line_and_byte_of_an_error_hold_for_pieces_of_any_size(pieces, data):
  good = b"".join(pieces)
  size = data.draw(st.integers(1, 4))
  whole = good + b"\xff rest"
  line_number = len((good + b"x").splitlines())
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(files, "_PIECE", size)
    patch.setattr(files, "_open_unpacked", lambda _: io.BytesIO(whole))
    assert files._first_bad_byte("x")[:3] == (line_number, len(good), 0xFF)


@pytest.mark.parametrize(
  "data, advice",
  [
    (gzip.compress(b"text", mtime=0), "name it .gz"),
    ("text".encode("utf-16"), "UTF-16"),
    (b"PAR1\x15\x04\xff\xfe", "name it .parquet"),
    (b"PK\x03\x04\xff\xfe", "spreadsheet"),
    (b"cut \xe6\x9d", "convert the file"),
  ],
)
def test_what_a_file_is_in_place_of_text_is_said(tmp_path, data, advice):
  path = tmp_path / "a.jsonl"
  path.write_bytes(data)
  assert advice in error_of(path)


def test_a_path_with_brackets_is_that_file(tmp_path):
  path = tmp_path / "wiki[2020].txt"
  path.write_text("one\n", encoding="utf-8")
  (tmp_path / "wiki2.txt").write_text("two\n", encoding="utf-8")
  assert list(documents.read(str(path))) == ["one"]
  assert list(documents.read(str(tmp_path / "wiki[12].txt"))) == ["two"]


def test_marks_and_compressions_in_corpora_tables_and_subjects(tmp_path):
  for ending, pack in PACKERS.items():
    text = pack("\ufeffsubject,relation,object\nAda,born_in,Bath\n".encode())
    (tmp_path / f"a.csv{ending}").write_bytes(text)
    assert schema.read_facts(tmp_path / f"a.csv{ending}") == [
      {"subject": "Ada", "relation": "born_in", "object": "Bath"}
    ]
    (tmp_path / f"s.txt{ending}").write_bytes(pack("\ufeffFrance\nSpain\n".encode()))
    asked = queries.cross(tmp_path / f"s.txt{ending}", ["r"])
    assert [row["subject"] for row in asked] == ["France", "Spain"]
    assert list(documents.read(str(tmp_path / f"s.txt{ending}"))) == ["France", "Spain"]


def test_a_bad_byte_in_a_later_part_of_a_corpus_is_named_with_its_line(tmp_path, monkeypatch):
  monkeypatch.setattr(documents, "PART_BYTES", 8)
  path = tmp_path / "a.txt"
  path.write_bytes("\ufeffone\ntwo\nthree\nfour\nZ".encode() + b"\xfcrich\nsix\n")
  with pytest.raises(UserError, match=r"a.txt:5: expected UTF-8 text, got the byte 0xfc at byte "):
    list(documents.read(str(path)))
