"""Whether a config can be run: what its arms need of one another, and of the rest."""

from factshock.data import prompts
from factshock.models import families
from factshock.runtime.errors import UserError
from factshock.study import arms
from factshock.study import config as configs


def _correction_problems(config, name, ranks):
  arm = config.arms[name]
  where = f"config.arms.{name}"
  problems = []
  if not ranks:
    problems.append(
      f"{where}: prior_correction needs every candidate's score: config.answering.mode='rank'"
    )
  if (arm.prior == "arm") != ("with_arm" in arm):
    problems.append(
      f"{where}: prior='arm' and with_arm=ARM go together, got prior={arm.prior!r} and "
      f"with_arm={arm.get('with_arm')!r}"
    )
  if config.arms[arm.of].kind in arms.CORRECTED and arms.corrected_point(config, name) is None:
    there = ", ".join(f"{arms.value(label):g}" for label in arms.points(config, arm.of))
    problems.append(f"{where}.at: expected one of {there}, got {arm.at:g}")
  return problems


def _soup_problems(config, name):
  arm = config.arms[name]
  problems = []
  if len(arm.of_arms) * len(arm.get("steps", (None,))) < 2:
    problems.append(
      f"config.arms.{name}: expected two models to average at least, got one; name more arms or steps"
    )
  for other in arm.of_arms:
    if (
      other not in config.arms
      or config.arms[other].kind != "finetune"
      or arms.settings(config, other).lora_rank
    ):
      problems.append(
        f"config.arms.{name}.of_arms: expected arms of kind 'finetune' without adapters, got {other!r}"
      )
      continue
    section = arms.settings(config, other)
    kept = {
      0,
      *range(
        0,
        section.steps,
        section.checkpoint_every if section.keep_checkpoints else section.steps,
      ),
      section.steps,
    }
    if not kept >= set(arm.get("steps", ())):
      problems.append(
        f"config.arms.{name}.steps: {other!r} keeps steps {', '.join(map(str, sorted(kept)))}, got "
        f"{', '.join(map(str, arm.steps))}; see its checkpoint_every and keep_checkpoints"
      )
  return problems


def _attention_problems(config, name):
  """Of an arm with attention=True: it needs prompts that name a subject and ask for an answer in words."""
  arm = config.arms[name]
  askers = (
    [name] if arm.kind in ("prompted", "finetune") else [arm.get("of"), *arm.get("of_arms", ())]
  )
  askers = [asker for asker in askers if asker in config.arms]
  asked_by = {config.arms[asker].get("prompt", config.finetune.prompt) for asker in askers}
  return [
    f"config.arms.{name}.attention: prompts 'cloze' and 'question' name a subject, {prompt!r} does not; "
    "leave it out"
    for prompt in sorted(asked_by)
    if prompt in prompts.CHOICE_PROMPTS
  ]


def check(config):
  """Checks a config, its arms included. Raises: UserError naming every problem."""
  configs.check(config, {name: kind.schema for name, kind in arms.KINDS.items()})
  problems = []
  if config.facts != "world" and not (config.corpus or config.entity_counts):
    problems.append(
      f"config.facts={config.facts!r} needs config.corpus=PATH too: a text, pretrained on or like that, "
      "that says which answers are common (or config.entity_counts=PATH, from `python -m factshock.count`)"
    )
  reads_text = [name for name, arm in config.arms.items() if arm.get("ratio", 0) > 0]
  if config.facts != "world" and not config.corpus and (reads_text or config.pretrain.steps > 0):
    problems.append(
      f"config.corpus=PATH: is needed by {', '.join(reads_text) or 'pretraining'}, which read text"
    )
  ranks = config.answering.mode == "rank" and config.finetune.prompt not in prompts.CHOICE_PROMPTS
  for name, arm in config.arms.items():
    if (
      arm.kind in ("output_mixing", "best_cloze", "majority", "naive_bayes")
      and config.finetune.prompt in prompts.CHOICE_PROMPTS
    ):
      problems.append(
        f"config.arms.{name}: {arm.kind} ranks the answers of a relation, and choices are a question's own; take it out"
      )
    elif arm.kind in ("output_mixing", "best_cloze") and not ranks:
      problems.append(
        f"config.arms.{name}: {arm.kind} needs config.answering.mode='rank'; take it out or rank"
      )
    of = arm.get("of")
    of_kinds = arms.CORRECTED if arm.kind == "prior_correction" else ("finetune",)
    if of and config.arms[of].kind not in of_kinds:
      problems.append(
        f"config.arms.{name}.of: expected an arm of kind {' or '.join(map(repr, of_kinds))}, got {of!r}"
      )
    asked = arm.get("with_arm")
    asked_kinds = ("prompted", "best_cloze") if arm.kind == "prior_correction" else ("prompted",)
    if asked and config.arms[asked].kind not in asked_kinds:
      problems.append(
        f"config.arms.{name}.with_arm: expected an arm of kind {' or '.join(map(repr, asked_kinds))}, got {asked!r}"
      )
    if arm.get("text") in ("background", "random_words") and config.pretrain.masking == "salient":
      problems.append(
        f"config.arms.{name}.text: {arm.text!r} leaves no sentence that names a fact's two ends, which "
        "config.pretrain.masking='salient' needs; choose 'without_test'"
      )
    missing = {"encoder"} if families.named(config.model.family).decoder_only else set()
    missing |= {"head"} if config.model.tie_head else set()
    problems += [
      f"config.arms.{name}.{key}: the model has no {part!r} of its own"
      + ("; its embedding serves: say 'embedding'" if part == "head" else "")
      for key in ("parts", "trained", "frozen")
      for part in arm.get(key, ())
      if part in missing
    ]
    if arm.get("attention"):
      problems += _attention_problems(config, name)
    if arm.kind == "soup":
      problems += _soup_problems(config, name)
    mixed = {
      "of": [of] if of and arm.kind != "prior_correction" else [],
      "of_arms": arm.get("of_arms", ()),
    }  # whose weights are taken
    problems += [
      f"config.arms.{name}.{key}: {other!r} keeps a moving average for its own answers alone (ema); name another arm"
      for key, others in mixed.items()
      for other in others
      if other in config.arms and config.arms[other].get("ema")
    ]
    if arm.get("facts") in arms.MODEL_SETS and not (ranks and config.roles.ceiling):
      problems.append(
        f"config.arms.{name}.facts: {arm.facts!r} needs an arm that ranks as config.roles.ceiling: what it has "
        "right is known"
      )
    if ("teacher" in arm) != (arm.get("labels") in ("soft", "best")):
      problems.append(
        f"config.arms.{name}: labels='soft' or 'best' and teacher=ARM go together, got labels={arm.get('labels')!r} and "
        f"teacher={arm.get('teacher')!r}"
      )
    elif "teacher" in arm and (
      arm.teacher not in config.arms
      or config.arms[arm.teacher].kind not in ("prompted", "best_cloze")
      or "of" in config.arms[arm.teacher]
      or not ranks
    ):
      problems.append(
        f"config.arms.{name}.teacher: expected an arm of kind 'prompted' or 'best_cloze' that ranks, got {arm.teacher!r}"
      )
    if ("gold_share" in arm and "teacher" not in arm) or (
      arm.get("logit_adjustment") and (not ranks or arm.get("reweighted"))
    ):
      problems.append(
        f"config.arms.{name}: gold_share goes with a teacher, and logit_adjustment with answers that are ranked, without reweighted"
      )
    if arm.kind == "prior_correction":
      problems += _correction_problems(config, name, ranks)
  if problems:
    raise UserError("the config cannot be used:\n  " + "\n  ".join(problems))
