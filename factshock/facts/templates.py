"""Templates of the relations of PopQA and EntityQuestions, and the groups of MMLU.

The questions are the data sets' own, the statements ours.
"""

from collections.abc import Mapping
from typing import TypeAlias

from factshock.types import Relation

# Label, statement and question of each relation.
Templates: TypeAlias = Mapping[str, tuple[str, str, str]]

POPQA: Templates = {
  "occupation": ("occupation", "[X] works as a [Y] .", "What is [X]'s occupation?"),
  "place of birth": ("place of birth", "[X] was born in [Y] .", "In what city was [X] born?"),
  "genre": ("genre", "[X] is of the genre [Y] .", "What genre is [X]?"),
  "father": ("father", "The father of [X] is [Y] .", "Who is the father of [X]?"),
  "country": ("country", "[X] is located in the country [Y] .", "In what country is [X]?"),
  "producer": ("producer", "[X] was produced by [Y] .", "Who was the producer of [X]?"),
  "director": ("director", "[X] was directed by [Y] .", "Who was the director of [X]?"),
  "capital of": ("capital of", "[X] is the capital of [Y] .", "What is [X] the capital of?"),
  "screenwriter": (
    "screenwriter",
    "The screenplay of [X] was written by [Y] .",
    "Who was the screenwriter for [X]?",
  ),
  "composer": (
    "composer",
    "The music of [X] was composed by [Y] .",
    "Who was the composer of [X]?",
  ),
  "color": ("color", "The color of [X] is [Y] .", "What color is [X]?"),
  "religion": ("religion", "The religion of [X] is [Y] .", "What is the religion of [X]?"),
  "sport": ("sport", "[X] plays [Y] .", "What sport does [X] play?"),
  "author": ("author", "[X] was written by [Y] .", "Who is the author of [X]?"),
  "mother": ("mother", "The mother of [X] is [Y] .", "Who is the mother of [X]?"),
  "capital": ("capital", "The capital of [X] is [Y] .", "What is the capital of [X]?"),
}

ENTITYQUESTIONS: Templates = {
  "P17": ("country", "[X] is located in the country [Y] .", "Which country is [X] located in?"),
  "P19": ("place of birth", "[X] was born in [Y] .", "Where was [X] born?"),
  "P20": ("place of death", "[X] died in [Y] .", "Where did [X] die?"),
  "P26": ("spouse", "[X] is married to [Y] .", "Who is [X] married to?"),
  "P36": ("capital", "The capital of [X] is [Y] .", "What is the capital of [X]?"),
  "P40": ("child", "[Y] is a child of [X] .", "Who is [X]'s child?"),
  "P50": ("author", "[X] was written by [Y] .", "Who is the author of [X]?"),
  "P69": ("educated at", "[X] was educated at [Y] .", "Where was [X] educated?"),
  "P106": ("occupation", "[X] works as a [Y] .", "What kind of work does [X] do?"),
  "P112": ("founded by", "[X] was founded by [Y] .", "Who founded [X]?"),
  "P127": ("owned by", "[X] is owned by [Y] .", "Who owns [X]?"),
  "P131": (
    "located in the administrative territorial entity",
    "[X] is located in [Y] .",
    "Where is [X] located?",
  ),
  "P136": ("genre", "[X] plays [Y] music .", "What type of music does [X] play?"),
  "P159": (
    "headquarters location",
    "The headquarter of [X] is in [Y] .",
    "Where is the headquarter of [X]?",
  ),
  "P170": ("creator", "[X] was created by [Y] .", "Who was [X] created by?"),
  "P175": ("performer", "[X] was performed by [Y] .", "Who performed [X]?"),
  "P176": ("manufacturer", "[X] is produced by [Y] .", "Which company is [X] produced by?"),
  "P264": (
    "record label",
    "[X] is represented by the music label [Y] .",
    "What music label is [X] represented by?",
  ),
  "P276": ("location", "[X] is located in [Y] .", "Where is [X] located?"),
  "P407": (
    "language of work or name",
    "[X] was written in [Y] .",
    "Which language was [X] written in?",
  ),
  "P413": (
    "position played on team",
    "[X] plays in the position of [Y] .",
    "What position does [X] play?",
  ),
  "P495": ("country of origin", "[X] was created in [Y] .", "Which country was [X] created in?"),
  "P740": ("location of formation", "[X] was founded in [Y] .", "Where was [X] founded?"),
  "P800": ("notable work", "[X] is famous for [Y] .", "What is [X] famous for?"),
}

# Disciplines of each group of MMLU (Hendrycks et al. 2021).
MMLU = {
  "biology": ("college_biology", "high_school_biology"),
  "business": ("business_ethics", "management", "marketing"),
  "chemistry": ("college_chemistry", "high_school_chemistry"),
  "computer science": (
    "college_computer_science",
    "computer_security",
    "high_school_computer_science",
    "machine_learning",
  ),
  "culture": ("human_sexuality", "sociology"),
  "economics": ("econometrics", "high_school_macroeconomics", "high_school_microeconomics"),
  "engineering": ("electrical_engineering",),
  "geography": ("high_school_geography",),
  "health": (
    "anatomy",
    "clinical_knowledge",
    "college_medicine",
    "human_aging",
    "medical_genetics",
    "nutrition",
    "professional_medicine",
    "virology",
  ),
  "history": (
    "high_school_european_history",
    "high_school_us_history",
    "high_school_world_history",
    "prehistory",
  ),
  "law": ("international_law", "jurisprudence", "professional_law"),
  "math": (
    "abstract_algebra",
    "college_mathematics",
    "elementary_mathematics",
    "high_school_mathematics",
    "high_school_statistics",
  ),
  "other": ("global_facts", "miscellaneous", "professional_accounting"),
  "philosophy": (
    "formal_logic",
    "logical_fallacies",
    "moral_disputes",
    "moral_scenarios",
    "philosophy",
    "world_religions",
  ),
  "physics": ("astronomy", "college_physics", "conceptual_physics", "high_school_physics"),
  "politics": (
    "high_school_government_and_politics",
    "public_relations",
    "security_studies",
    "us_foreign_policy",
  ),
  "psychology": ("high_school_psychology", "professional_psychology"),
}


def rows(table: Templates) -> dict[str, Relation]:
  """Returns the templates as relations, in the form of relations.read_relations."""
  return {
    name: {
      "relation": name,
      "label": label,
      "statements": [statement],
      "questions": [question],
      "type": "",
    }
    for name, (label, statement, question) in table.items()
  }


def subject_in(question: str, template: str) -> str | None:
  """Returns the subject of a question made from a template with one [X]; None if it was not."""
  before, after = template.split("[X]")
  end = len(question) - len(after)
  if question.startswith(before) and question.endswith(after) and end > len(before):
    return question[len(before) : end]
  return None


def mmlu_group(discipline: str) -> str:
  """Returns the group of an MMLU discipline, such as "history"; "" for one that MMLU has not."""
  for group, disciplines in MMLU.items():
    if discipline in disciplines:
      return group
  return ""
