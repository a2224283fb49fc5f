"""Where a continuation begins among tokens, as servers write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.served import borders

ODD = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
  "texts, prompt, continuation, expected",
  [
    (["The", " city", " is", " Paris"], "The city is", " Paris", 3),
    (["The", " city", " is", " Par", "is"], "The city is", " Paris", 3),
    (["The", " city", " is", " ", "Paris"], "The city is", " Paris", 3),
    (["The city is Paris"], "", "The city is Paris", 0),
    (["A", ":", "Paris"], "A:", "Paris", 2),
    # White space that ends a prompt belongs to what follows.
    (["A", ":", " Paris"], "A: ", "Paris", 2),
    # vLLM: BOS before the text, whose length its text_offset counts too.
    (["<|begin_of_text|>", "A", " is", " Paris"], "A is", " Paris", 3),
    # Tokens without the white space of SentencePiece, or with its sign; GPT-2's sign.
    (["<s>", "A", "is", "Paris"], "A is", " Paris", 3),
    (["<s>", "\u2581A", "\u2581is", "\u2581Par", "is"], "A is", " Paris", 3),
    (["A", "\u0120is", "\u0120Paris", "\u010a"], "A is", " Paris\n", 2),
    # Parts of characters: empty (llama.cpp), a sign in their place, bytes.
    (["A", " is", " ", "", "", "", "b"], "A is", " \u4eacb", 2),
    (["A", " is", f" {ODD}", ODD], "A is", " \u4eac", 2),
    (["A", " is", " ", "<0xE4>", "<0xBA>", "<0xAC>", " x"], "A is", " \u4eac x", 2),
    (["A", " is", "bytes: \\xe4", "bytes:\\xba\\xac"], "A is", " \u4eac", 2),
    ([ODD, ODD], "", "\u4eac", 0),
    (["A", " ", ODD, ODD, " ", ODD, ODD], "A \u4eac", " \u4eac", 4),
    # What stands before is not looked at: a prompt's own tokens may be of any form.
    (["?", "??", " is", " Paris"], "\u4eac is", " Paris", 3),
  ],
)
def test_a_continuation_is_found(texts, prompt, continuation, expected):
  assert borders.first_of_continuation(texts, prompt, continuation) == expected


@pytest.mark.parametrize(
  "texts, prompt, continuation, words",
  [
    (["The", " Paris"], "The Pa", "ris", "ends with 'The Pa', in the middle of the token ' Paris'"),
    (["x", "\u4eac\u4eac"], "x\u4eac", "\u4eac", "in the middle"),
    (["A", ODD, ODD, ODD, ODD], "A\u4eac", "\u4eac", "in the middle"),
    (["The", " city", " Rome"], "The city", " Paris", "' Rome' is not in the text"),
    (["Paris"], "The city is", " Paris", "do not spell"),
    (["is"], "", "Paris", "do not spell"),
    ([], "A", " b", "do not spell"),
  ],
)
def test_tokens_across_the_border_and_of_other_texts_are_named(texts, prompt, continuation, words):
  with pytest.raises(borders.UnreadableError) as error:
    borders.first_of_continuation(texts, prompt, continuation)
  assert words in str(error.value)


@given(
  st.lists(st.text("ab .", min_size=1, max_size=4), min_size=1),
  st.lists(st.text("ab .", min_size=1, max_size=4), min_size=1),
)
def test_tokens_that_end_with_the_prompt_are_told_from_those_after(before, after):
  prompt, continuation = "".join(before), "".join(after)
  expected, position = 0, 0
  for text in before:  # those of white space alone at its end belong to what follows
    if position + len(text) > len(prompt.rstrip()):
      break
    position += len(text)
    expected += 1
  begins_within = position < len(prompt.rstrip())
  if begins_within:
    with pytest.raises(borders.UnreadableError):
      borders.first_of_continuation([*before, *after], prompt, continuation)
  else:
    found = borders.first_of_continuation([*before, *after], prompt, continuation)
    assert found == expected
