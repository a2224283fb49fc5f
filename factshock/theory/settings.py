"""Settings of the one-layer study: the keys of its config and their checks."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from factshock.runtime.settings import (
  POSITIVE,
  SEEDS,
  TEXT,
  Check,
  Schema,
  check_sections,
  choice,
  raise_if_any,
  schema_of,
  tuple_of,
  values_of,
)
from factshock.theory import hypotheses, variants
from factshock.theory.conditions import Settings
from factshock.theory.phases import Descent
from factshock.theory.worlds import EXPONENT, Sizes

# The study's ConfigDict.
Config: TypeAlias = Any

_COSINE = Check((int, float), lambda v: 0 <= v < 1, "a cosine from 0 to below 1")
_RISING = Check(
  (tuple, list),
  lambda v: all(isinstance(x, int) and x >= 1 for x in v) and list(v) == sorted(set(v)),
  "rising whole numbers from 1",
)
SCHEMA: Schema = {
  "study": choice("one_layer").means("the study of this page."),
  "name": TEXT.means("title of the study, as the page has it."),
  "seeds": SEEDS.means("how many seeds run, from 0 on, or which; each draws a world of its own."),
  "world": schema_of(Sizes),
  "cosine": _COSINE.means("between the embeddings of two subjects; at 0 they are orthogonal."),
  "question": Check((int, float), lambda v: 0 < v <= 1, "a cosine above 0, up to 1").means(
    "between a relation's token in questions and in pretraining, for the fifth prediction."
  ),
  "pretrain": schema_of(Descent),
  "finetune": {
    "steps": _RISING.means("steps after which the model is judged."),
    "learning_rate": POSITIVE.means("of each step."),
  },
  "phases": {
    "zipf": tuple_of(EXPONENT).means("exponents of the frequency of subjects; () leaves it out."),
    "sizes": _RISING.means("numbers of finetuned subjects."),
    "steps": _RISING.means("numbers of finetuning steps."),
  },
  "stored": _RISING.means("numbers of pretraining steps, by which facts are stored more or less."),
  "conditions": {
    "cosine": _COSINE.means("between subjects, where they are not orthogonal."),
    "exposure": POSITIVE.means("size of the one step in which facts are stored otherwise."),
  },
  "variants": {
    "names": tuple_of(choice(*variants.VARIANTS)).means("models beyond the theory's own."),
    "world": schema_of(Sizes),
    "pretrain": schema_of(variants.Pretraining),
    "finetune": schema_of(Descent),
  },
}


def check(config: Config) -> None:
  """Checks a config.

  Raises:
    UserError: names every problem, among them sizes with which a prediction would be empty.
  """
  check_sections(config, SCHEMA)
  world = sizes_of(config.world, "config.world")
  problems = _size_problems(world, "config.world")
  variants_path = "config.variants.world"
  problems += _size_problems(sizes_of(config.variants.world, variants_path), variants_path)
  half = _pool(world) // 2
  problems += [
    f"config.phases.sizes: expected at most {half} subjects, half of those that are not asked "
    f"about, got {size}"
    for size in config.phases.sizes
    if size > half
  ]
  problems += [
    f"config.{name}.steps: expected at least one number of steps, got none"
    for name in ("finetune", "phases")
    if not config[name].steps
  ]
  raise_if_any(problems)


def sizes_of(section: Mapping[str, Any], path: str = "config.world") -> Sizes:
  """Returns the sizes of the world that a section of the config describes."""
  return Sizes(**values_of(Sizes, section, path))


def condition_settings(config: Config) -> Settings:
  """Returns the settings of the study's main condition."""
  return Settings(
    cosine=config.cosine,
    question=1.0,
    bins=hypotheses.PARTS,
    learning_rate=config.finetune.learning_rate,
    steps=tuple(config.finetune.steps),
  )


def _pool(sizes: Sizes) -> int:
  """Returns the number of subjects that are left to finetune on."""
  return sizes.subjects - sizes.test_subjects


def _size_problems(sizes: Sizes, path: str) -> list[str]:
  least = hypotheses.PARTS
  counts = {"asked about": sizes.test_subjects, "left to finetune on": _pool(sizes)}
  problems = [
    f"{path}: expected at least {least} subjects {role}, a tenth each, got {count}; have more "
    "subjects or another share `test`"
    for role, count in counts.items()
    if count < least
  ]
  facts = sizes.subjects * sizes.relations
  if sizes.sentences < facts:
    problems.append(
      f"{path}.sentences: expected at least one for each of {facts} facts, got {sizes.sentences}"
    )
  return problems
