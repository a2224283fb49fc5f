"""Arms whose weights are mixed from those of other arms: interpolated, averaged, or exchanged."""

from collections.abc import Sequence

from factshock.checkpoints import interpolation, store, tree_files
from factshock.checkpoints import manifest as manifests
from factshock.predictions.points import Point
from factshock.study import answers, roles, weights
from factshock.study import config as configs
from factshock.study.arms import finetune, registry, requirements
from factshock.study.arms.kind import Advice, Kind, Pair
from factshock.study.config import Config
from factshock.study.seed_run import SeedRun
from factshock.types import Params

# Of alpha in depth, see interpolation.mix_by_profile.
PROFILES = ("uniform", "decreasing", "increasing")

_BEFORE = "the model before finetuning"


def alpha_points(config: Config, name: str) -> list[Point]:
  """Returns a point for each alpha of config.mixing."""
  return [Point(name, float(alpha)) for alpha in config.mixing.alphas]


def _run_weight_mixing(run: SeedRun, name: str) -> None:
  """Interpolates the pretrained weights and those of another arm.

  They are (1 - alpha) pretrained + alpha finetuned. With a `profile` alpha falls linearly in depth
  to 0 at the head ("decreasing") or rises from 0 at the embedding ("increasing").
  """
  arm = run.config.arms[name]
  left = []
  for alpha, point in zip(run.config.mixing.alphas, alpha_points(run.config, name)):
    if not answers.reuse(run, point, _same_models(run.config, name, alpha), alpha=alpha):
      left.append((alpha, point))
  if not left:
    return
  finetuned = finetune.weights_of(run, arm.of)
  pretrained = weights.pretrained(run)
  question = finetune.question(run.config, arm.of)
  profile = arm.get("profile", "uniform")
  params = None
  for alpha, point in left:
    params = interpolation.mix_by_profile(pretrained, finetuned, alpha, profile, into=params)
    answers.answer(run, point, params, question, alpha=alpha)


def _same_models(config: Config, name: str, alpha: float) -> list[Point]:
  """Returns the points that ask, in the same words, the very weights that an alpha gives.

  They are the pretrained ones at 0, whatever the profile, and the finetuned ones at 1.
  """
  of = config.arms[name].of
  section = finetune.settings(config, of)
  if section.adapters:  # added to the products and not to the weights: other bits
    return []
  if alpha == 1 and _is_uniform(config, name):
    return [Point(of, section.steps)]
  if alpha != 0:
    return []
  prompted = [
    Point(other)
    for other, arm in config.arms.items()
    if arm.kind == "prompted" and arm.prompt == section.prompt
    if "of" not in arm and not arm.get("shots")
  ]
  is_from_random = config.arms[of].get("start") == "random"
  starts = 0 in section.eval_steps and section.steps and not is_from_random
  return [Point(of, 0), *prompted] if starts else prompted


def _mixing_problems(config: Config, name: str) -> list[str]:
  """Returns the problems of an arm whose weights are those of other arms."""
  arm = config.arms[name]
  askers = [arm.of] if arm.get("of") else list(arm.get("of_arms", ()))
  return [
    *requirements.kind_problems(config, name, "of", registry.trained_kinds()),
    *requirements.averaged_problems(config, name),
    *requirements.part_problems(config, name, ("parts",)),
    *requirements.attention_problems(config, name, askers),
  ]


def _weight_mixing_advice(config: Config, name: str) -> Advice:
  of = config.arms[name].of
  needs = f"{_BEFORE}, development facts"
  cost = "forward passes to choose alpha"
  if config.arms[of].get("ratio"):
    of_advice = registry.advice(config, of)
    needs = f"{of_advice.needs}; {needs}"
    cost = f"{of_advice.cost}; {cost}"
  return Advice(needs, cost, "weights are at hand")


def _is_uniform(config: Config, name: str) -> bool:
  return config.arms[name].get("profile", "uniform") == "uniform"


def _is_of_mixture(config: Config, name: str) -> bool:
  return roles.MIXTURE in roles.of_arm(config, config.arms[name].of)


def _weight_mixing_roles(config: Config, name: str) -> list[str]:
  if not _is_uniform(config, name):
    return []
  of_mixture = [roles.COMBINED] if _is_of_mixture(config, name) else []
  of_finetuned = [roles.WEIGHT_MIXING] if config.arms[name].of == config.roles.finetuned else []
  return of_mixture + of_finetuned


def _weight_mixing_comparisons(config: Config, name: str) -> list[Pair]:
  """Returns pairs of a mixed mixture: with the mixture, the mixings alone, and the text alone."""
  if not (_is_uniform(config, name) and _is_of_mixture(config, name)):
    return []
  others = [config.arms[name].of]
  for role in (roles.WEIGHT_MIXING, roles.OUTPUT_MIXING, roles.TEXT_ALONE):
    others += roles.with_role(config, role)
  return [(name, other) for other in others]


def _run_soup(run: SeedRun, name: str) -> None:
  """Averages the weights of several finetuned arms, or of kept `steps` of them.

  Wortsman et al. 2022, "Model soups". Step 0 is the pretrained model.
  """
  arm = run.config.arms[name]
  checkpoints = [(other, step) for other in arm.of_arms for step in arm.get("steps", (None,))]
  try:
    params = _averaged(run, checkpoints)
  except tree_files.Damaged:
    for other, step in checkpoints:
      if step != 0:
        finetune.weights_of(run, other, step)  # trains what is damaged again, or says what is
    params = _averaged(run, checkpoints)
  answers.answer(run, Point(name), params, finetune.question(run.config, arm.of_arms[0]))


def _averaged(run: SeedRun, checkpoints: Sequence[tuple[str, int | None]]) -> Params:
  """Returns the average of the weights of arms at steps, which are in memory a leaf at a time.

  Raises:
    tree_files.Damaged: a checkpoint is damaged.
  """
  with_start = any(step == 0 for _, step in checkpoints)
  start = tree_files.flat_leaves(weights.pretrained(run)) if with_start else {}
  folders = [
    store.step_folder(run.workdir.checkpoints(other, run.seed), step)
    for other, step in checkpoints
    if step != 0
  ]
  first = manifests.params_only(store.read_manifest(folders[0])["leaves"])
  averaged = {}
  for full_name in first:
    name = full_name.removeprefix("params/")
    rest = iter(folders)
    one_leaf = [
      {"leaf": start[name] if step == 0 else store.restore_leaf(next(rest), name)}
      for _, step in checkpoints
    ]
    averaged[name] = interpolation.interpolate(one_leaf, "uniform")["leaf"]
  return tree_files.nested(averaged)


def _soup_problems(config: Config, name: str) -> list[str]:
  arm = config.arms[name]
  problems = _mixing_problems(config, name)
  if len(arm.of_arms) * len(arm.get("steps", (None,))) < 2:
    problems.append(
      f"config.arms.{name}: expected two models to average at least, got one; name more arms or "
      "steps"
    )
  for other in arm.of_arms:
    problems += _averaged_arm_problems(config, name, other)
  return problems


def _averaged_arm_problems(config: Config, name: str, other: str) -> list[str]:
  """Returns why an arm cannot be in a soup: it trains nothing, has adapters, or lacks the steps."""
  trains = other in config.arms and config.arms[other].kind in registry.trained_kinds()
  if not trains or finetune.settings(config, other).lora_rank:
    expected = " or ".join(map(repr, registry.trained_kinds()))
    return [
      f"config.arms.{name}.of_arms: expected arms of kind {expected} without adapters, got "
      f"{other!r}"
    ]
  steps = config.arms[name].get("steps", ())
  kept = _kept_steps(config, other)
  if kept >= set(steps):
    return []
  return [
    f"config.arms.{name}.steps: {other!r} keeps steps {', '.join(map(str, sorted(kept)))}, got "
    f"{', '.join(map(str, steps))}; see its checkpoint_every and keep_checkpoints"
  ]


def _kept_steps(config: Config, name: str) -> set[int]:
  """Returns the steps whose weights are there when an arm has run; 0 is the pretrained model."""
  section = finetune.settings(config, name)
  every = section.checkpoint_every if section.keep_checkpoints else section.steps
  return {0, *range(0, section.steps, every), section.steps}


def _soup_advice(config: Config, name: str) -> Advice:
  arm = config.arms[name]
  if "steps" in arm:
    return Advice(
      f"{_BEFORE}; checkpoints kept on the way",
      "their room on disk",
      "checkpoints were kept, and no development facts are there",
    )
  return Advice("nothing", f"{len(arm.of_arms)} times the training", "training is cheap")


def _run_exchange(run: SeedRun, name: str) -> None:
  """Puts some parts (models/weight_groups.py) of another arm back to the pretrained weights.

  With `only` all parts but these are put back.
  """
  arm = run.config.arms[name]
  pretrained = weights.pretrained(run)
  finetuned = finetune.weights_of(run, arm.of)
  first, second = (finetuned, pretrained) if arm.get("only", False) else (pretrained, finetuned)
  params = interpolation.exchange(first, second, tuple(arm.parts))
  answers.answer(run, Point(name), params, finetune.question(run.config, arm.of))


def _exchange_advice(config: Config, name: str) -> Advice:
  return Advice(_BEFORE, "nothing", "to see in which part the shock sits")


KINDS = [
  Kind(
    name="weight_mixing",
    keys=configs.arm_schema(
      of=configs.required(configs.OF),
      profile=configs.optional(
        configs.choice(*PROFILES).means("how alpha goes with depth; else it is one for all layers.")
      ),
      attention=configs.optional(configs.ATTENTION),
    ),
    run=_run_weight_mixing,
    group="remedy",
    caption="Weights between those before finetuning (alpha 0) and after it (alpha 1).",
    advice=_weight_mixing_advice,
    varies="alpha",
    points=alpha_points,
    problems=_mixing_problems,
    roles=_weight_mixing_roles,
    comparisons=_weight_mixing_comparisons,
  ),
  Kind(
    name="soup",
    keys=configs.arm_schema(
      of_arms=configs.required(configs.TEXTS.means("the arms whose weights are averaged.")),
      steps=configs.optional(
        configs.STEPS.means("the steps of each of them that are averaged; else the last.")
      ),
      attention=configs.optional(configs.ATTENTION),
    ),
    run=_run_soup,
    group="remedy",
    caption="The average of the weights of several runs, or of several steps of one.",
    advice=_soup_advice,
    problems=_soup_problems,
  ),
  Kind(
    name="exchange",
    keys=configs.arm_schema(
      of=configs.required(configs.OF),
      parts=configs.required(
        configs.PARTS.means("groups of weights that are put back to those before finetuning.")
      ),
      only=configs.optional(
        configs.FLAG.means("puts the finetuned groups into the model before finetuning instead.")
      ),
      attention=configs.optional(configs.ATTENTION),
    ),
    run=_run_exchange,
    group="remedy",
    caption="Finetuned weights of which some parts are put back to those before finetuning.",
    advice=_exchange_advice,
    problems=_mixing_problems,
  ),
]
