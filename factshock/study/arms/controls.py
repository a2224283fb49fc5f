"""Arms that answer without a language model."""

from factshock.facts import baselines
from factshock.predictions.points import Point
from factshock.study import answers
from factshock.study import config as configs
from factshock.study.arms import requirements
from factshock.study.arms.kind import Advice, Kind
from factshock.study.config import Config
from factshock.study.seed_run import SeedRun


def _run_majority(run: SeedRun, name: str) -> None:
  """Answers every query with the relation's answers in the order of their frequency in the pool."""
  by_relation = baselines.majority(run.sets["pool"], run.candidates)
  for split in answers.SPLITS:
    scores_by_fact = [by_relation[fact["relation"]] for fact in run.sets[split]]
    answers.write_answers(run, Point(name), split, scores_by_fact)


def _run_naive_bayes(run: SeedRun, name: str) -> None:
  """Answers every query from the words of its subject and the facts of the pool."""
  for split in answers.SPLITS:
    scores_by_fact = baselines.naive_bayes(run.sets["pool"], run.sets[split], run.candidates)
    answers.write_answers(run, Point(name), split, scores_by_fact)


def _problems(config: Config, name: str) -> list[str]:
  return requirements.candidate_problems(config, name, needs_ranking=False)


def _advice(config: Config, name: str) -> Advice:
  return Advice("labelled facts", "nothing", "it is to be seen what needs no language model")


KINDS = [
  Kind(
    name="majority",
    keys=configs.arm_schema(),
    run=_run_majority,
    group="control",
    caption="Each relation's most frequent answer in the pool, with no model.",
    advice=_advice,
    problems=_problems,
  ),
  Kind(
    name="naive_bayes",
    keys=configs.arm_schema(),
    run=_run_naive_bayes,
    group="control",
    caption="Naive Bayes on the words of the subject's name, with no language model.",
    advice=_advice,
    problems=_problems,
  ),
]
