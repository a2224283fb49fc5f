"""Facts as text: cloze, question, k-shot and multiple-choice prompts.

A prompt of a T5 has <extra_id_0> where the answer goes; what facts and relations say is text, such
a token in it too (data/sentinels.py).
"""

import functools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from factshock.data import byte_tokenizers, sentinels, span_corruption
from factshock.facts import relations as relation_files
from factshock.runtime.errors import UserError
from factshock.types import Example, Fact, Relation, Tokenizer

BLANK = sentinels.BLANK
# Prompts that score a fact's own choices: by their letters, or by their whole texts.
CHOICE_PROMPTS = ("letters", "choices")
PROMPTS = ("cloze", "question", *CHOICE_PROMPTS)
CHAT = "chat"  # the form of a question that a chat model is asked in its own template
LETTERS = "ABCDEFGH"


def prompt_texts(
  facts: Sequence[Fact],
  relations: Mapping[str, Relation],
  form: str,
  decoder_only: bool,
  shots: int = 0,
  pool: Sequence[Fact] = (),
  seed: int = 0,
) -> list[str]:
  """Returns the prompts of facts for a T5 or a decoder-only model.

  Args:
    facts: what is asked for.
    relations: their templates.
    form: "cloze", "question", "chat", or of facts with choices "letters" or "choices".
    decoder_only: whether the prompts are for a decoder-only model.
    shots: how many answered facts go before each.
    pool: facts that these are chosen from.
    seed: of the choice.

  Raises:
    UserError: a fact that the form has no text for, or too few facts of its relation in the pool.
  """
  blank = "" if decoder_only else BLANK
  lettered = form == "letters"
  write = answer_prompt if decoder_only else k_shot_prompt
  texts: list[str] = []
  # All are chosen before one is written, so that too few facts are the first to be reported.
  shots_of = [choose_shots(fact, pool, shots, seed) if shots else [] for fact in facts]
  for fact, chosen in zip(facts, shots_of):
    if form in CHOICE_PROMPTS:
      text = choice_prompt(fact, chosen, blank, lettered)
    elif form == CHAT:
      text = chat_prompt(fact, relations, chosen)
    else:
      text = write(fact, relations, chosen, form)
    texts.append(text)
  return texts


def answer_text(fact: Fact, form: str) -> str:
  """Returns what a model has to say after a fact's prompt: its object, or its choice's letter."""
  if form == "letters":
    return answer_letter(fact)
  return fact["object"]


def _relation_of(fact: Fact, relations: Mapping[str, Relation]) -> Relation:
  """Returns the relation of a fact, or raises a UserError that names those there are."""
  if fact["relation"] not in relations:
    raise UserError(
      f"fact about {fact['subject']!r}: expected a relation of {sorted(relations)}, "
      f"got {fact['relation']!r}; add it to the relations file"
    )
  return relations[fact["relation"]]


def cloze_prompt(
  fact: Fact,
  relations: Mapping[str, Relation],
  template: int = 0,
) -> str:
  """Returns the statement with a blank: "Ada Byron was born in <extra_id_0> .".

  Args:
    fact: what is asked for.
    relations: their templates.
    template: index of the statement.
  """
  before, after = _around_answer(fact, relations, template)
  return sentinels.with_blank(before, after)


def _around_answer(
  fact: Fact,
  relations: Mapping[str, Relation],
  template: int = 0,
) -> tuple[str, str]:
  """Returns what a statement about a fact says before its answer and after it."""
  statements = _relation_of(fact, relations)["statements"]
  if not 0 <= template < len(statements):
    raise UserError(
      f"relation {fact['relation']!r}: expected a template below {len(statements)}, got "
      f"{template}; add statements to the relations file"
    )
  return relation_files.around_answer(statements[template], fact["subject"])


def question_text(fact: Fact, relations: Mapping[str, Relation]) -> str:
  """Returns the question alone: the fact's own, else the first of its relation."""
  own = fact.get("question")
  if own:
    return own
  relation = _relation_of(fact, relations)
  questions = relation.get("questions")
  if not questions:
    hint = "; its `statements` are asked by the prompt cloze" if relation["statements"] else ""
    raise UserError(
      f"relation {fact['relation']!r}: expected `questions` in the relations file, or a "
      f"`question` of the fact about {fact['subject']!r}; got neither{hint}"
    )
  return relation_files.question(questions[0], fact["subject"])


def question_prompt(fact: Fact, relations: Mapping[str, Relation]) -> str:
  """Returns the question and the blank: "where was Ada Byron born ? <extra_id_0>".

  The fact's own `question` goes before that of its relation.
  """
  question = question_text(fact, relations)
  return sentinels.with_blank(f"{question} ")


def k_shot_prompt(
  fact: Fact,
  relations: Mapping[str, Relation],
  shots: Iterable[Fact],
  form: str = "question",
) -> str:
  """Returns other facts, answered, then the fact's own prompt: "q1 a1 q2 a2 q <extra_id_0>".

  Args:
    fact: what is asked for.
    relations: their templates.
    shots: facts to answer before; none gives the prompt alone.
    form: "question", or "cloze": then shots are whole statements.
  """
  texts: list[str] = []
  if form == "cloze":
    for shot in shots:
      relation = _relation_of(shot, relations)
      stated = _stated(shot, relation)
      texts.append(sentinels.as_text(stated))
    texts.append(cloze_prompt(fact, relations))
    return " ".join(texts)
  for shot in shots:
    question = question_text(shot, relations)
    answered = f"{question} {shot['object']}"
    texts.append(sentinels.as_text(answered))
  texts.append(question_prompt(fact, relations))
  return " ".join(texts)


def _stated(fact: Fact, relation: Relation) -> str:
  """Returns a fact in the first statement of its relation."""
  template = relation["statements"][0]
  return relation_files.statement(template, fact["subject"], fact["object"])


def answer_prompt(
  fact: Fact,
  relations: Mapping[str, Relation],
  shots: Iterable[Fact] = (),
  form: str = "question",
) -> str:
  r"""Returns what a decoder-only model reads before the answer, all of it text.

  Such as "Q: where was Ada Byron born ?\nA:".

  Args:
    fact: what is asked for.
    relations: their templates.
    shots: facts to answer before.
    form: "question", or "cloze": the relation's first statement up to its [Y]; shots are then whole
      statements, a line each.

  Raises:
    UserError: a cloze whose statement goes on with words after [Y], or a relation without
      questions.
  """
  if form == "question":
    text = ""
    for shot in shots:
      question = question_text(shot, relations)
      text += f"Q: {question}\nA: {shot['object']}\n\n"
    question = question_text(fact, relations)
    return f"{text}Q: {question}\nA:"
  before, _ = _around_answer(fact, relations)
  name = fact["relation"]
  _check_ends_with_answer(name, relations[name]["statements"][0])
  text = ""
  for shot in shots:
    relation = relations[shot["relation"]]
    text += _stated(shot, relation) + "\n"
  return text + before.rstrip()


def chat_prompt(
  fact: Fact,
  relations: Mapping[str, Relation],
  shots: Iterable[Fact] = (),
) -> str:
  """Returns what a chat model is asked: the question, after other ones with their answers."""
  text = "".join(f"Q: {question_text(shot, relations)}\nA: {shot['object']}\n\n" for shot in shots)
  question = question_text(fact, relations)
  return f"{text}Q: {question}" if text else question


def _check_ends_with_answer(name: str, statement: str) -> None:
  """Raises a UserError where text follows the answer in the first statement of a relation."""
  if not can_ask(statement, True):
    raise UserError(
      f"relation {name!r}: expected a first statement that ends with [Y], as a "
      f"decoder-only model reads no text after the answer; got {statement!r}: "
      "put such a statement first or ask questions"
    )


def can_ask(statement: str, decoder_only: bool) -> bool:
  """Returns whether a statement can ask for its answer.

  For a decoder-only model [Y] must end it, but for a full stop and the like.
  """
  before, _, after = statement.partition("[Y]")
  if not decoder_only:
    return True
  goes_on = any(letter.isalnum() for letter in after)
  return bool(before.strip()) and not goes_on


def choice_prompt(
  fact: Fact,
  shots: Iterable[Fact],
  blank: str = "",
  letters: bool = True,
) -> str:
  """Returns a multiple-choice question as MMLU asks it, which ends in "Answer:".

  Hendrycks et al. 2021; their head line names the discipline.

  Args:
    fact: what is asked for.
    shots: facts to answer before.
    blank: what follows "Answer:" where the model needs it.
    letters: whether the choices are listed by letters; without them the whole text of each choice
      is scored.

  Raises:
    UserError: a fact without choices, or whose object is none of them.
  """
  discipline = fact["relation"].replace("_", " ")
  head = f"The following are multiple choice questions (with answers) about {discipline}.\n\n"
  for shot in shots:
    question = _choices_text(shot, letters)
    answer = answer_letter(shot) if letters else shot["object"]
    head += f"{question} {answer}\n\n"
  text = head + _choices_text(fact, letters)
  return f"{sentinels.as_text(text)} {blank}" if blank else text


def answer_letter(fact: Fact) -> str:
  """Returns the letter of a fact's right choice; UserError where its object is no choice."""
  index = choices_of(fact).index(fact["object"])
  return LETTERS[index]


def choices_of(fact: Fact) -> list[str]:
  """Returns the choices of a fact.

  Raises:
    UserError: there are none, or its object is not among them.
  """
  choices = fact.get("choices") or []
  if fact["object"] not in choices or not 2 <= len(choices) <= len(LETTERS):
    raise UserError(
      f"fact about {fact['subject'][:60]!r}: expected 2 to {len(LETTERS)} `choices` with the "
      f"object {fact['object'][:60]!r} among them, got {choices!r:.200}; such facts "
      "come from mmlu:PATH"
    )
  return choices


def _choices_text(fact: Fact, letters: bool) -> str:
  """Returns the question of a fact, its choices a line each if they have letters, and "Answer:"."""
  text = fact.get("question") or fact["subject"]
  text += "\n"
  if letters:
    for letter, choice in zip(LETTERS, choices_of(fact)):
      text += f"{letter}. {choice}\n"
  return text + "Answer:"


def choose_shots(
  fact: Fact,
  pool: Iterable[Fact],
  k: int,
  seed: int,
) -> list[Fact]:
  """Returns `k` facts of a pool, of the fact's relation and about other, distinct subjects.

  They are chosen by seed and subject.

  Args:
    fact: what is asked for.
    pool: facts to choose from.
    k: how many.
    seed: of the choice.

  Raises:
    UserError: the pool has fewer than `k` such subjects.
  """
  seen = {fact["subject"]}
  others: list[Fact] = []
  for other in pool:
    if other["relation"] != fact["relation"] or other["subject"] in seen:
      continue
    seen.add(other["subject"])
    others.append(other)
  if len(others) < k:
    raise UserError(
      f"relation {fact['relation']!r}: expected at least {k} facts about subjects other than "
      f"{fact['subject']!r} for {k} shots, got {len(others)}; ask for fewer shots"
    )
  name = f"{fact['relation']}\t{fact['subject']}"
  key = span_corruption.keys(seed, [zlib.crc32(name.encode())])
  random = span_corruption.draw(key, len(others))[0]
  order = np.argsort(random, kind="stable")
  return [others[index] for index in order[:k]]


def target_text(tokenizer: Tokenizer, answer: str) -> str:
  """Returns what a T5 has to say: "<extra_id_0> ANSWER", as span corruption itself would put it.

  To bytes the space before the blank has been left in the prompt: "<extra_id_0>ANSWER".
  """
  space = "" if tokenizer.kind == byte_tokenizers.KIND else " "
  return sentinels.with_blank("", f"{space}{answer}")


def answer_tokens(tokenizer: Tokenizer, answer: str) -> int:
  """Returns how many tokens a model has to say for an answer, its end and <extra_id_0> aside."""
  if tokenizer.sentinels:
    return len(tokenizer.encode(target_text(tokenizer, answer))) - 1
  return len(tokenizer.encode_continuation("a", answer))


def token_counter(tokenizer: Tokenizer) -> Callable[[str], int]:
  """Returns `answer_tokens` of a tokenizer, as sources.read takes it."""
  return functools.partial(answer_tokens, tokenizer)


def encode_example(
  tokenizer: Tokenizer,
  prompt_text: str,
  answer: str,
) -> Example:
  """Returns the example of one prompt of a T5.

  Returns:
    `inputs` and `targets`, 1-D int32, EOS-ended, unpadded.

  Raises:
    UserError: the prompt has no blank or several, or the answer has no token.
  """
  shown = sentinels.as_read(prompt_text)
  if prompt_text.count(BLANK) != 1:
    raise UserError(
      f"prompt {shown!r}: expected {BLANK} once, got it {prompt_text.count(BLANK)} times"
    )
  if not tokenizer.encode(sentinels.as_text(answer)):
    raise UserError(f"prompt {shown!r}: expected an answer with at least one token, got {answer!r}")
  inputs = [*tokenizer.encode(prompt_text), tokenizer.eos]
  targets = [*tokenizer.encode(target_text(tokenizer, answer)), tokenizer.eos]
  return {
    "inputs": np.asarray(inputs, np.int32),
    "targets": np.asarray(targets, np.int32),
  }
