"""Facts as text: cloze, question, k-shot and multiple-choice prompts; for a T5 with <extra_id_0> where the answer goes."""

import zlib

import numpy as np

from factshock.data import span_corruption
from factshock.facts import relations as relation_files
from factshock.runtime.errors import UserError

BLANK = "<extra_id_0>"
# Prompts that score a fact's own choices: by their letters, or by their whole texts.
CHOICE_PROMPTS = ("letters", "choices")
PROMPTS = ("cloze", "question", *CHOICE_PROMPTS)


def prompt_texts(facts, relations, form, decoder_only, shots=0, pool=(), seed=0):
  """The prompts of facts for a T5 or a decoder-only model, each after `shots` answered facts of `pool`.

  Args:
    form: "cloze", "question", or of facts with choices "letters" or "choices".
  Raises:
    UserError: a fact that the form has no text for, or too few facts of its relation in the pool.
  """
  chosen = [choose_shots(fact, pool, shots, seed) if shots else [] for fact in facts]
  if form in ("letters", "choices"):
    blank = "" if decoder_only else BLANK
    return [
      choice_prompt(fact, others, blank, form == "letters") for fact, others in zip(facts, chosen)
    ]
  write = answer_prompt if decoder_only else k_shot_prompt
  return [write(fact, relations, others, form) for fact, others in zip(facts, chosen)]


def answer_text(fact, form):
  """What a model has to say after a fact's prompt: its object, or the letter of the right choice."""
  return answer_letter(fact) if form == "letters" else fact["object"]


def _relation(fact, relations):
  """The relation of a fact, or a UserError that names those there are."""
  if fact["relation"] not in relations:
    raise UserError(
      f"fact about {fact['subject']!r}: expected a relation of {sorted(relations)}, "
      f"got {fact['relation']!r}; add it to the relations file"
    )
  return relations[fact["relation"]]


def cloze_prompt(fact, relations, template=0):
  """The statement with a blank: "Ada Byron was born in <extra_id_0> ."; `template` counts the statements."""
  statements = _relation(fact, relations)["statements"]
  if not 0 <= template < len(statements):
    raise UserError(
      f"relation {fact['relation']!r}: expected a template below {len(statements)}, got "
      f"{template}; add statements to the relations file"
    )
  return relation_files.cloze(statements[template], fact["subject"], BLANK)


def question_text(fact, relations):
  """The question alone: the fact's own, else the first of its relation."""
  if fact.get("question"):
    return fact["question"]
  questions = _relation(fact, relations).get("questions")
  if not questions:
    raise UserError(
      f"relation {fact['relation']!r}: expected `questions` in the relations file, or a "
      f"`question` of the fact about {fact['subject']!r}; got neither"
    )
  return relation_files.question(questions[0], fact["subject"])


def question_prompt(fact, relations):
  """The question and the blank: "where was Ada Byron born ? <extra_id_0>"; the fact's own `question` wins."""
  return f"{question_text(fact, relations)} {BLANK}"


def k_shot_prompt(fact, relations, shots, form="question"):
  """Other facts, answered, then the fact's own prompt: "q1 a1 q2 a2 q <extra_id_0>".

  No shots: the prompt alone. `form` is "question", or "cloze": then shots are whole statements.
  """
  if form == "cloze":
    templates = [_relation(shot, relations)["statements"][0] for shot in shots]
    answered = [
      relation_files.statement(template, shot["subject"], shot["object"])
      for template, shot in zip(templates, shots)
    ]
    return " ".join([*answered, cloze_prompt(fact, relations)])
  answered = [f"{question_text(shot, relations)} {shot['object']}" for shot in shots]
  return " ".join([*answered, question_prompt(fact, relations)])


def answer_prompt(fact, relations, shots=(), form="question"):
  """What a decoder-only model reads before the answer: "Q: where was Ada Byron born ?\\nA:", after answered ones of `shots`.

  `form` "cloze" gives the relation's first statement up to its [Y]; shots are then whole statements, a line each.

  Raises:
    UserError: a cloze whose statement goes on with words after [Y], or a relation without questions.
  """
  if form == "question":
    answered = [f"Q: {question_text(shot, relations)}\nA: {shot['object']}\n\n" for shot in shots]
    return "".join(answered) + f"Q: {question_text(fact, relations)}\nA:"
  before, _, _ = cloze_prompt(fact, relations).partition(BLANK)
  if not can_ask(relations[fact["relation"]]["statements"][0], True):
    raise UserError(
      f"relation {fact['relation']!r}: expected a first statement that ends with [Y], as a decoder-only "
      f"model reads no text after the answer; got {relations[fact['relation']]['statements'][0]!r}: "
      "put such a statement first or ask questions"
    )
  answered = [
    relation_files.statement(
      relations[shot["relation"]]["statements"][0], shot["subject"], shot["object"]
    )
    + "\n"
    for shot in shots
  ]
  return "".join(answered) + before.rstrip()


def can_ask(statement, decoder_only):
  """Whether a statement can ask for its answer: for a decoder-only model [Y] must end it, but for a full stop and the like."""
  before, _, after = statement.partition("[Y]")
  return not decoder_only or bool(before.strip()) and not any(letter.isalnum() for letter in after)


LETTERS = "ABCDEFGH"


def choice_prompt(fact, shots, blank="", letters=True):
  """A multiple-choice question as MMLU asks it, after answered ones: with lettered choices, or without any.

  Ends in "Answer:" and, where the model needs one, `blank`. `letters` False leaves the choices out: then the whole text of each is
  scored. (Hendrycks et al. 2021; their head line names the discipline.)

  Raises:
    UserError: a fact without choices, or whose object is none of them.
  """
  head = f"The following are multiple choice questions (with answers) about {fact['relation'].replace('_', ' ')}.\n\n"
  answered = [
    f"{_choices_text(shot, letters)} {answer_letter(shot) if letters else shot['object']}\n\n"
    for shot in shots
  ]
  return head + "".join(answered) + _choices_text(fact, letters) + (f" {blank}" if blank else "")


def answer_letter(fact):
  """The letter of a fact's right choice. UserError where its object is no choice."""
  return LETTERS[choices_of(fact).index(fact["object"])]


def choices_of(fact):
  """The choices of a fact. UserError where there are none, or its object is not among them."""
  choices = fact.get("choices") or []
  if fact["object"] not in choices or not 2 <= len(choices) <= len(LETTERS):
    raise UserError(
      f"fact about {fact['subject'][:60]!r}: expected 2 to {len(LETTERS)} `choices` with the object {fact['object'][:60]!r} "
      f"among them, got {choices!r:.200}; such facts come from mmlu:PATH"
    )
  return choices


def _choices_text(fact, letters):
  listed = (
    "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, choices_of(fact)))
    if letters
    else ""
  )
  return f"{fact.get('question') or fact['subject']}\n{listed}Answer:"


def choose_shots(fact, pool, k, seed):
  """`k` facts of `pool` of the same relation about other, distinct subjects; chosen by seed and subject.

  Raises:
    UserError: the pool has fewer than `k` such subjects.
  """
  seen = {fact["subject"]}
  others = []
  for other in pool:
    if other["relation"] == fact["relation"] and other["subject"] not in seen:
      seen.add(other["subject"])
      others.append(other)
  if len(others) < k:
    raise UserError(
      f"relation {fact['relation']!r}: expected at least {k} facts about subjects other than "
      f"{fact['subject']!r} for {k} shots, got {len(others)}; ask for fewer shots"
    )
  name = f"{fact['relation']}\t{fact['subject']}".encode()
  key = span_corruption.keys(seed, [zlib.crc32(name)])
  order = np.argsort(span_corruption.draw(key, len(others))[0], kind="stable")
  return [others[i] for i in order[:k]]


def target_text(answer):
  """What the model has to say: "<extra_id_0> ANSWER", as span corruption itself would put it."""
  return f"{BLANK} {answer}"


def encode_example(tokenizer, prompt_text, answer):
  """The example of one prompt: dict of `inputs` and `targets`, 1-D int32, EOS-ended, unpadded.

  Raises:
    UserError: the prompt has no blank or several, or the answer has no token.
  """
  if prompt_text.count(BLANK) != 1:
    raise UserError(
      f"prompt {prompt_text!r}: expected {BLANK} once, got it {prompt_text.count(BLANK)} "
      "times; take it out of the facts and relations"
    )
  answer_tokens = tokenizer.encode(answer)
  if not answer_tokens:
    raise UserError(
      f"prompt {prompt_text!r}: expected an answer with at least one token, got {answer!r}"
    )
  return {
    "inputs": np.asarray(tokenizer.encode(prompt_text) + [tokenizer.eos], np.int32),
    "targets": np.asarray(tokenizer.encode(target_text(answer)) + [tokenizer.eos], np.int32),
  }
