"""Arms whose answer probabilities are mixed from those of other arms."""

from factshock.predictions import mixing
from factshock.study import answers, roles, weights
from factshock.study import config as configs
from factshock.study.arms import finetune, registry, requirements
from factshock.study.arms.kind import Advice, Kind
from factshock.study.arms.mixed_weights import alpha_points
from factshock.study.config import Config
from factshock.study.seed_run import Question, SeedRun


def _run(run: SeedRun, name: str) -> None:
  """Interpolates the answer probabilities of a prompted arm and of a finetuned one.

  Each is asked by its own prompt.
  """
  arm = run.config.arms[name]
  before = run.config.arms[arm.with_arm]
  question_before = Question(before.prompt, before.get("shots", 0), before.get("facts", "pool"))
  finetuned = finetune.weights_of(run, arm.of)
  question_after = finetune.question(run.config, arm.of)
  for split in answers.SPLITS:
    scores_before = answers.scores(run, weights.pretrained(run), split, question_before)
    scores_after = answers.scores(run, finetuned, split, question_after)
    for alpha, point in zip(run.config.mixing.alphas, alpha_points(run.config, name)):
      mixed = [
        mixing.mix_probabilities(before_C, after_C, alpha)
        for before_C, after_C in zip(scores_before, scores_after)
      ]
      answers.write_answers(run, point, split, mixed, alpha=alpha)


def _problems(config: Config, name: str) -> list[str]:
  return [
    *requirements.candidate_problems(config, name, needs_ranking=True),
    *requirements.kind_problems(config, name, "of", registry.trained_kinds()),
    *requirements.kind_problems(config, name, "with_arm", ("prompted",)),
    *requirements.averaged_problems(config, name),
  ]


def _advice(config: Config, name: str) -> Advice:
  return Advice(
    "the model before finetuning, whenever asked; development facts",
    "twice the answering",
    "weights cannot be mixed",
  )


def _roles(config: Config, name: str) -> list[str]:
  return [roles.OUTPUT_MIXING] if config.arms[name].of == config.roles.finetuned else []


KINDS = [
  Kind(
    name="output_mixing",
    keys=configs.arm_schema(
      of=configs.required(configs.OF),
      with_arm=configs.required(configs.TEXT.means("the arm before finetuning, mixed with it.")),
    ),
    run=_run,
    group="remedy",
    caption="Answer probabilities between those before finetuning (alpha 0) and after (alpha 1).",
    advice=_advice,
    varies="alpha",
    points=alpha_points,
    problems=_problems,
    roles=_roles,
  )
]
