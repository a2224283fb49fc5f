"""Arms that finetune: on facts alone or mixed with the pretraining task, with many options."""

import functools
import math
import shutil

from factshock.checkpoints import store, tree_files
from factshock.facts import splits
from factshock.predictions.points import Point
from factshock.runtime import messages, processes
from factshock.study import answers, pretraining_text, replay, roles, training, weights
from factshock.study import config as configs
from factshock.study.arms import requirements, taught
from factshock.study.arms.kind import Advice, Kind, Pair
from factshock.study.config import ArmSchema, Config
from factshock.study.finetuning_examples import FinetuningData
from factshock.study.seed_run import Question, SeedRun
from factshock.training.settings import FinetuningConfig
from factshock.types import Params

_BEFORE = "the model before finetuning"

# Advice by the key that an arm has; of several the first counts.
_ADVICE = {
  "gold_share": Advice(
    _BEFORE, "a forward pass a question", "answers must stay near those of before"
  ),
  "labels": Advice(
    "a prompt that the model answers well; no labels",
    "a forward pass a question",
    "the model knows more than it answers to questions",
  ),
  "sure_share": Advice(
    _BEFORE, "a forward pass a question", "some of the facts may be left out of finetuning"
  ),
  "l2_sp": Advice(_BEFORE, "a copy of the weights in memory", "one run is to do without mixing"),
  "lora_rank": Advice("nothing", "less memory", "memory is short"),
  "trained": Advice("nothing", "nothing", "to see in which part the shock sits"),
  "frozen": Advice("nothing", "nothing", "to see in which part the shock sits"),
  "ema": Advice("nothing", "a copy of the weights in memory", "training is noisy"),
  "reweighted": Advice(
    "counts of answers in text", "nothing", "labels are to be kept and counts are at hand"
  ),
  "logit_adjustment": Advice(
    "nothing", "nothing", "answers in training are unlike those asked for"
  ),
}
_PLAIN_ADVICE = Advice("nothing", "nothing", "it is what the others are measured against")
_OTHER_ADVICE = Advice("nothing", "nothing", "other settings of finetuning are to be tried")


def settings(config: Config, name: str) -> FinetuningConfig:
  """Returns the finetuning settings of an arm: config.finetune with the arm's own values on top."""
  return FinetuningConfig.of({**config.finetune.to_dict(), **config.arms[name]})


def question(config: Config, name: str) -> Question:
  """Returns how a finetuned arm is asked: by the prompt that it was finetuned on."""
  return Question(settings(config, name).prompt)


def weights_of(run: SeedRun, name: str, step: int | None = None) -> Params:
  """Returns the weights of a finetuned arm: its last, or those of a kept step.

  Where its last checkpoint is found damaged it is set aside and the arm trained again.

  Raises:
    tree_files.Damaged: the checkpoint of the kept step is damaged.
  """
  try:
    return weights.finetuned(run, name, step)
  except tree_files.Damaged as error:
    folder = run.workdir.checkpoints(name, run.seed)
    last_step = store.agreed_latest_step(folder)
    if step is not None or last_step is None:
      raise
    store.set_aside(folder, last_step, error)
  _run(run, name)
  return weights.finetuned(run, name, step)


def _points(config: Config, name: str) -> list[Point]:
  return [Point(name, step) for step in settings(config, name).eval_steps]


def _run(run: SeedRun, name: str) -> None:
  """Finetunes on the arm's facts, mixed with `ratio` pretraining examples to each, and answers."""
  _drop_if_answers_are_missing(run, name)
  arm = run.config.arms[name]
  section = settings(run.config, name)
  from_random = arm.get("start") == "random"
  start = functools.partial(weights.random_params if from_random else weights.pretrained, run)

  def evaluate(step: int, params: Params) -> None:
    point = Point(name, step)
    if not _is_answered(run, point):
      answers.answer(run, point, params, Question(section.prompt), step=step)

  if arm.get("ratio") and arm.get("text") == pretraining_text.REPLAY:
    replay.write_if_missing(run, _replayed_documents(run.config))
  facts, belief = taught.taught(run, name)
  data = FinetuningData(
    facts,
    ratio=arm.get("ratio", 0),
    question_weight=arm.get("question_weight", 1.0),
    text=arm.get("text", "whole"),
    belief=belief,
    adjustment=arm.get("logit_adjustment", 0.0),
    order=arm.get("order", 0),
    fact_weights=splits.answer_weights(facts, run.counts) if arm.get("reweighted") else None,
  )
  training.finetune(run, name, data, section, start, evaluate=evaluate)


def _replayed_documents(config: Config) -> int:
  """Returns how many documents the arms that read the model's own text take at most."""
  counts = [
    settings(config, name).steps * settings(config, name).batch_size * arm.get("ratio", 0)
    for name, arm in config.arms.items()
    if arm.get("text") == pretraining_text.REPLAY
  ]
  return math.ceil(max(counts))


def _drop_if_answers_are_missing(run: SeedRun, name: str) -> None:
  """Removes the arm's checkpoints where answers before the last of them are missing.

  Those of the last checkpoint's own step can be had from it.
  """
  folder = run.workdir.checkpoints(name, run.seed)
  last_step = store.agreed_latest_step(folder) or -1
  missing = [point for point in _points(run.config, name) if not _is_answered(run, point)]
  if any(point.value is not None and point.value < last_step for point in missing):
    messages.say(
      f"  {name}: answers before step {last_step} are missing; training again from the start"
    )
    with processes.first_process_first("training again"):
      shutil.rmtree(folder, ignore_errors=not processes.is_first())


def _is_answered(run: SeedRun, point: Point) -> bool:
  return processes.broadcast(
    lambda: answers.answered(run.config, run.workdir, point, run.seed), "answered"
  )


def _problems(config: Config, name: str) -> list[str]:
  arm = config.arms[name]
  problems = []
  if arm.get("text") == pretraining_text.REPLAY:
    problems += _replay_problems(config, name)
  if arm.get("text") in ("background", "random_words") and config.pretrain.masking == "salient":
    problems.append(
      f"config.arms.{name}.text: {arm.text!r} leaves no sentence that names a fact's two ends, "
      "which config.pretrain.masking='salient' needs; choose 'without_test'"
    )
  return [
    *problems,
    *requirements.part_problems(config, name, ("trained", "frozen")),
    *requirements.attention_problems(config, name, [name]),
    *taught.problems(config, name, requirements.ranks(config)),
  ]


def _replay_problems(config: Config, name: str) -> list[str]:
  """Returns what keeps an arm from reading the model's own text, a line each."""
  problems = []
  if not config.arms[name].get("ratio"):
    problems.append(f"config.arms.{name}: text='replay' is read by arms with a ratio; give one")
  if config.pretrain.masking == "salient":
    problems.append(
      f"config.arms.{name}.text: 'replay' hardly names a fact's two ends, which "
      "config.pretrain.masking='salient' needs; choose masking 'spans'"
    )
  return problems


def _advice(config: Config, name: str) -> Advice:
  arm = config.arms[name]
  if arm.get("ratio") and arm.get("text") == pretraining_text.REPLAY:
    return Advice(
      _BEFORE,
      f"{arm.ratio:g} examples of its own text to a question, written once",
      "training is to be done anyway, and text like that of pretraining is not at hand",
    )
  if arm.get("ratio"):
    return Advice(
      "text like that of pretraining",
      f"{arm.ratio:g} examples of text to a question",
      "training is to be done anyway, and text is at hand",
    )
  by_key = [advice for key, advice in _ADVICE.items() if arm.get(key)]
  if by_key:
    return by_key[0]
  return _PLAIN_ADVICE if roles.is_plain(config, name) else _OTHER_ADVICE


def _roles(config: Config, name: str) -> list[str]:
  arm = config.arms[name]
  if arm.get("start") == "random":
    return [roles.FROM_RANDOM]
  if not arm.get("ratio") or _is_control(config, name) or not roles.has_main_facts(config, name):
    return []
  if arm.get("question_weight") == 0:
    return [roles.TEXT_ALONE]
  return [roles.MIXTURE] if arm.get("labels", "gold") == "gold" else []


def _is_control(config: Config, name: str) -> bool:
  """Returns whether an arm reads an altered text or learns the objects of other facts."""
  arm = config.arms[name]
  altered = arm.get("text", "whole") not in ("whole", pretraining_text.REPLAY)
  return altered or arm.get("labels") == "permuted"


def _comparisons(config: Config, name: str) -> list[Pair]:
  arm = config.arms[name]
  if _is_control(config, name):
    mixtures = [(mixture, name) for mixture in roles.with_role(config, roles.MIXTURE)]
    return [(name, config.roles.finetuned), *mixtures]
  if arm.get("labels") in ("soft", "best"):
    return [(name, other) for other in config.arms if _is_with_objects(config, name, other)]
  if roles.MIXTURE in _roles(config, name):
    return [(name, other) for other in roles.with_role(config, roles.TEXT_ALONE)]
  return []


def _is_with_objects(config: Config, name: str, other: str) -> bool:
  """Returns whether another arm is alike but learns the objects in the place of a belief."""
  if config.arms[other].kind != config.arms[name].kind:
    return False
  options = roles.options(config, name)
  for key in ("labels", "teacher", "gold_share"):
    options.pop(key, None)
  return roles.options(config, other) == options


def _own_keys() -> ArmSchema:
  """Returns the keys that say what such an arm learns; the others are those of config.finetune."""
  options = dict(
    ratio=configs.NOT_NEGATIVE.means("examples of the pretraining task to each question; else 0."),
    question_weight=configs.NOT_NEGATIVE.means("multiplies the questions' loss; else 1."),
    start=configs.choice("pretrained", "random").means("the weights that it begins with."),
    order=configs.WHOLE.means("another number gives another order of the examples; else 0."),
    reweighted=configs.FLAG.means("weights facts by how common their answers are in text."),
    text=configs.choice(*pretraining_text.KINDS).means(
      "the text of the pretraining task: whole; without sentences on test facts; without any of "
      "the facts; random words; or text that the model itself has written."
    ),
    teacher=configs.TEXT.means("the arm as which the model of before is asked what it believes."),
    labels=configs.choice("gold", "permuted", "soft", "best").means(
      "what is taught: the objects; objects of other facts of the relation; the teacher's "
      "probabilities; or its likeliest answer."
    ),
    gold_share=configs.SHARE.means("share of the object in what soft or best labels teach."),
    sure_share=configs.INSIDE.means("keeps a share of the facts, those the teacher is surest of."),
    logit_adjustment=configs.NOT_NEGATIVE.means(
      "strength of the logit adjustment by how often the facts have each answer; else 0."
    ),
    attention=configs.ATTENTION,
  )
  facts = configs.choice(*taught.SETS, *taught.MODEL_SETS).means("set of facts that it learns.")
  optional = {key: configs.optional(check) for key, check in options.items()}
  return {"facts": configs.required(facts), **optional}


KINDS = [
  Kind(
    name="finetune",
    keys=configs.arm_schema(
      **_own_keys(),
      **configs.finetune_overrides(),
    ),
    run=_run,
    group="finetuning",
    caption="The pretrained model finetuned on facts; its title says what is special about it.",
    advice=_advice,
    varies="step",
    points=_points,
    problems=_problems,
    roles=_roles,
    comparisons=_comparisons,
    trains=True,
  )
]
