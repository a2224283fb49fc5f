"""Which tokens are the subject's: they decode back to it, with every tokenizer."""

import unicodedata

import hf_tokenizers
import pytest

from factshock.data import pretrained_tokenizers, subjects, tokenizers

NAMES = ["Ada Byron", "Žižek", "Ångström Straße", "東京 塔", "naïve-Ωmega", "A", "½ ﬁne ｆｕｌｌ"]
TEXTS = [
  "where was {} born ? <extra_id_0>",
  "{} was born in <extra_id_0> .",
  'who is "{}", then? <extra_id_0>',
  "<extra_id_0> made {}",
  "Q: where was {} born ?\nA: Rome\n\nQ: when was {}'s house built?\nA:",
]
LINES = hf_tokenizers.LINES + [f"{name} is here" for name in NAMES]


@pytest.fixture(scope="module", params=["words", "sentencepiece", "t5", "llama"])
def tokenizer(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  if request.param == "words":
    return tokenizers.word_tokenizer(
      sorted(
        {
          word
          for text in TEXTS
          for name in NAMES
          for word in text.format(*[name] * 2).split()
          if "<extra" not in word
        }
      ),
      sentinels=4,
    )
  if request.param == "sentencepiece":
    return tokenizers.train_sentencepiece(LINES * 3, folder / "spiece.model", 80, sentinels=4)
  make = hf_tokenizers.t5_like if request.param == "t5" else hf_tokenizers.llama_like
  return pretrained_tokenizers.load(make(folder, lines=LINES))


def plain(text):
  """The text as SentencePiece makes it equal (NFKC), without spaces."""
  return "".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_decode_to_the_subject(tokenizer, text, name):
  prompt = text.format(*[name] * 2)
  ids, places = tokenizer.encode(prompt), subjects.tokens_of(tokenizer, prompt, name)
  assert places == list(range(places[0], places[-1] + 1))
  said = plain(tokenizer.decode([ids[place] for place in places]))
  assert (
    said == plain(name)
    or tokenizer.kind == "words"
    and set(said.replace(plain(name), "", 1)) <= set("\",'s?")
  )
  rest = tokenizer.decode([token for place, token in enumerate(ids) if place not in places])
  assert plain(prompt).count(plain(name)) - plain(rest).count(plain(name)) >= 1


@pytest.mark.parametrize(
  "text", TEXTS + ["", "  two  spaces <extra_id_1> <extra_id_0>x  ", "tab\tand\nline"]
)
def test_every_token_has_a_place_in_order(tokenizer, text):
  text = text.format(*["東京 Ada"] * 2)
  spans = tokenizer.spans(text)
  assert len(spans) == len(tokenizer.encode(text))
  assert all(0 <= begin <= end <= len(text) for begin, end in spans) and sorted(spans) == spans
  covered = {place for begin, end in spans for place in range(begin, end)}
  assert {place for place, letter in enumerate(text) if not letter.isspace()} <= covered


def words(text, subject):
  made = tokenizers.word_tokenizer(["w"], sentinels=2)
  return subjects.tokens_of(made, text, subject)


@pytest.mark.parametrize(
  "text, subject, expected",
  [
    ("Rome lies by Rome .", "Rome", [3]),  # the last one
    ("what is Ind of Indian Indus", "Ind", [2]),  # as a word of its own
    ("what is Indian", "Ind", [2]),  # within a word where there is no other
    ("who made A ?\nA:", "A", [2]),  # not the mark of the answer
    ("year 0 is <extra_id_0> ?", "0", [1]),  # not in the blank
    ("year was <extra_id_0> ?", "extra", []),
    ("nobody is here", "Ada", []),
    ("nobody", "", []),
    ("ada is", "Ada", []),
    ("the band !!! sang", "!!!", [2]),
  ],
)
def test_which_occurrence_counts(text, subject, expected):
  assert words(text, subject) == expected
