"""Arms that ask the pretrained model, or a finetuned one, without training anything."""

import json
import os

from factshock.data import prompts
from factshock.predictions.points import Point
from factshock.runtime import files, messages, processes
from factshock.runtime.errors import UserError
from factshock.study import answers, roles, weights
from factshock.study import config as configs
from factshock.study.arms import finetune, registry, requirements, taught
from factshock.study.arms.kind import Advice, Kind
from factshock.study.config import Config
from factshock.study.seed_run import Question, SeedRun, asked_by


def _run_prompted(run: SeedRun, name: str) -> None:
  """Asks the pretrained model, or that of the finetuned arm `of`."""
  arm = run.config.arms[name]
  params = finetune.weights_of(run, arm.of) if "of" in arm else weights.pretrained(run)
  question = Question(arm.prompt, arm.get("shots", 0), arm.get("facts", "pool"))
  answers.answer(run, Point(name), params, question)


def _prompted_question(run: SeedRun, name: str) -> tuple[SeedRun, Question]:
  arm = run.config.arms[name]
  return run, Question(arm.prompt, arm.get("shots", 0))


def _prompted_problems(config: Config, name: str) -> list[str]:
  return [
    *requirements.kind_problems(config, name, "of", registry.trained_kinds()),
    *requirements.averaged_problems(config, name),
    *requirements.attention_problems(config, name, [name]),
  ]


def _prompted_roles(config: Config, name: str) -> list[str]:
  arm = config.arms[name]
  return [roles.K_SHOT] if arm.get("shots") and "of" not in arm else []


def _prompted_advice(config: Config, name: str) -> Advice:
  arm = config.arms[name]
  shots = arm.get("shots", 0)
  if not shots:
    return Advice("nothing", "nothing", "no training is to be done")
  return Advice("a few answered questions", "longer prompts", "no training is to be done")


def _run_best_cloze(run: SeedRun, name: str) -> None:
  """Asks the pretrained model by the statement of each relation that is best on development facts.

  What it gets right is what the model is taken to know (Petroni et al. 2019; Jiang et al. 2020 for
  choosing the statement).
  """
  asked_run, question = _best_question(run, name)
  answers.answer(asked_run, Point(name), weights.pretrained(run), question)


def _best_question(run: SeedRun, name: str) -> tuple[SeedRun, Question]:
  """Returns the run with each relation's best statement alone; which they are is kept on disk.

  Raises:
    UserError: a relation has no statement that the model can be asked by.
  """
  path = run.workdir.best_statements(run.seed)
  if not processes.broadcast(lambda: os.path.exists(path), "best statements"):
    best = _best_statements(run)
    with files.atomic_write(path) as file:
      json.dump(best, file, indent=1, ensure_ascii=False)
  best = processes.broadcast(lambda: _read_statements(path), "best statements read")
  relations = {name: asked_by(relation, best[name]) for name, relation in run.relations.items()}
  return run.with_relations(relations), Question("cloze")


def _read_statements(path: str) -> dict[str, str]:
  return json.loads("".join(line for _, line in files.lines(path)))


def _best_statements(run: SeedRun) -> dict[str, str]:
  """Returns each relation's statement with most development facts right, the first of equals."""
  params = weights.pretrained(run)
  shares: dict[str, float] = {}
  statements: dict[str, str] = {}
  most = max(len(relation["statements"]) for relation in run.relations.values())
  for index in range(most):
    by_relation = answers.cloze_shares(run, params, "development", index)
    for relation, right in by_relation.items():
      if relation not in shares or right > shares[relation]:
        shares[relation] = right
        statements[relation] = run.relations[relation]["statements"][index]
  without = [relation for relation in run.relations if relation not in statements]
  if without:
    raise UserError(
      f"relations {', '.join(without)}: no statement ends with [Y], as a decoder-only model needs; "
      "add one"
    )
  for relation, statement in statements.items():
    messages.say(
      f"  best cloze: {relation} by {statement!r}, {shares[relation]:.3f} right on development"
    )
  return statements


def _best_cloze_problems(config: Config, name: str) -> list[str]:
  return requirements.candidate_problems(config, name, needs_ranking=True)


def _best_cloze_advice(config: Config, name: str) -> Advice:
  return Advice(
    "development facts", "answers by every statement", "it is to be seen what the model knows"
  )


KINDS = [
  Kind(
    name="prompted",
    keys=configs.arm_schema(
      prompt=configs.required(
        configs.choice(*prompts.PROMPTS).means("how facts are asked: by statement, question, ...")
      ),
      shots=configs.optional(configs.COUNT.means("answered questions put before each; else none.")),
      facts=configs.optional(
        configs.choice(*taught.SETS).means("the set that these are drawn from; else the pool.")
      ),
      of=configs.optional(
        configs.TEXT.means("the finetuned arm that is asked; else the model before finetuning.")
      ),
      attention=configs.optional(configs.ATTENTION),
    ),
    run=_run_prompted,
    group="baseline",
    caption="A model asked by a prompt, with no training of its own.",
    advice=_prompted_advice,
    roles=_prompted_roles,
    problems=_prompted_problems,
    question=_prompted_question,
  ),
  Kind(
    name="best_cloze",
    keys=configs.arm_schema(attention=configs.optional(configs.ATTENTION)),
    run=_run_best_cloze,
    group="baseline",
    caption="The pretrained model asked by each relation's best statement: what it knows.",
    advice=_best_cloze_advice,
    problems=_best_cloze_problems,
    question=_best_question,
  ),
]
