"""Facts and labels of finetuning: its set, and what is taught in the place of the objects."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from factshock.facts import schema, splits
from factshock.runtime import messages
from factshock.runtime.errors import UserError
from factshock.study import answers, study_data, weights
from factshock.study.arms import registry
from factshock.study.config import Config
from factshock.study.seed_run import SeedRun
from factshock.types import Fact

# Facts of the pool that the pretrained model, asked as roles.ceiling is, has right or wrong.
_KNOWN_SETS = ("known", "unknown")
# The half of each relation's facts whose objects that model finds likelier, and the other half.
_CONFIDENCE_SETS = ("confident_half", "unconfident_half")
MODEL_SETS = (*_KNOWN_SETS, *_CONFIDENCE_SETS)
# The sets that need no model.
SETS = ("pool", *study_data.FINETUNING_SETS)


def taught(run: SeedRun, name: str) -> tuple[list[Fact], list[np.ndarray] | None]:
  """Returns the facts an arm trains on, and of each the probabilities that are taught of it.

  The probabilities are of the relation's candidates, [candidates]; None in their place is the
  object. The arm's `labels` say which: "permuted" are the objects of other facts of the relation;
  "soft" and "best" what the pretrained model itself believes, asked as the arm `teacher` is, all of
  it or its likeliest answer; of it `gold_share` is the object all the same. (A share g of the
  object and 1 - g of a belief has the gradient of a loss on the object and (1 - g) / g times the
  divergence from the belief, up to a factor.)

  `sure_share` keeps that share of each relation's facts, those whose likeliest answer the teacher
  is surest of: with "best" the answers that the model believes (Newman et al. 2025, arXiv
  2507.08371), with the objects the facts of which it is sure of something.
  """
  arm = run.config.arms[name]
  facts = facts_of(run, arm.facts)
  beliefs = _beliefs(run, facts, arm.teacher) if "teacher" in arm else []
  if "sure_share" in arm:
    rows = _surest(facts, beliefs, arm.sure_share)
    facts = [facts[row] for row in rows]
    beliefs = [beliefs[row] for row in rows]
    messages.say("  " + splits.describe(f"{name}, surest", facts))
  labels = arm.get("labels", "gold")
  if labels == "permuted":
    return splits.permuted_answers(facts, run.seed), None
  if labels == "gold":
    return facts, None
  share = arm.get("gold_share", 0.0)
  if labels == "best":
    beliefs = [answers.on_likeliest(p_C) for p_C in beliefs]
  return facts, [
    share * answers.on_object(run, fact) + (1 - share) * p_C for fact, p_C in zip(facts, beliefs)
  ]


def facts_of(run: SeedRun, name: str) -> list[Fact]:
  """Returns a finetuning set.

  Those that go by what the model knows are made when they are first asked for, kept with the run
  and written to the workdir.

  Raises:
    UserError: the model knows all of the pool, or nothing.
  """
  if name not in MODEL_SETS:
    return run.sets[name]
  if name not in run.model_sets:
    _make_model_sets(run, name)
  return run.model_sets[name]


def _make_model_sets(run: SeedRun, name: str) -> None:
  """Makes a set that goes by what the model knows, together with the one it is compared with."""
  names, make = (
    (_KNOWN_SETS, _by_answers) if name in _KNOWN_SETS else (_CONFIDENCE_SETS, _by_confidence)
  )
  for made, facts in zip(names, make(run)):
    run.model_sets[made] = facts
    schema.write_facts(run.workdir.fact_set(run.seed, made), facts)
    messages.say("  " + splits.describe(made, facts))


def _by_answers(run: SeedRun) -> tuple[list[Fact], list[Fact]]:
  """Returns facts that the model has right and as many that it has not, alike in the rest."""
  pool = run.sets["pool"]
  known: list[Fact] = []
  unknown: list[Fact] = []
  for fact, p_C in zip(pool, _beliefs(run, pool, run.config.roles.ceiling)):
    answer = run.candidates[fact["relation"]][int(p_C.argmax())]
    is_right = answer in (fact["object"], *fact.get("aliases", ()))
    (known if is_right else unknown).append(fact)
  matched = splits.matched(known, unknown)
  if not matched[0]:
    raise UserError(
      f"the set 'known' or 'unknown' of seed {run.seed} is empty: the pretrained model knows all "
      "of the pool or nothing"
    )
  return matched


def _by_confidence(run: SeedRun) -> tuple[list[Fact], list[Fact]]:
  """Returns the halves of the pool by the probability of the object, as column `confidence`."""
  pool = run.sets["pool"]
  with_confidence: list[Fact] = []
  for fact, p_C in zip(pool, _beliefs(run, pool, run.config.roles.ceiling, least=0.0)):
    confidence = float((p_C * answers.on_object(run, fact)).sum())
    with_confidence.append(cast(Fact, {**fact, "confidence": confidence}))
  return (
    splits.popular_half(with_confidence, "confidence"),
    splits.unpopular_half(with_confidence, "confidence"),
  )


def _surest(
  facts: Sequence[Fact],
  beliefs: Sequence[np.ndarray],
  share: float,
) -> list[int]:
  """Returns the rows of a share of each relation's facts, those a teacher is surest of.

  How sure it is of a fact is the probability of its likeliest answer among the candidates. Each
  relation keeps one fact at least.
  """
  by_relation: dict[str, list[int]] = {}
  for row, fact in enumerate(facts):
    by_relation.setdefault(fact["relation"], []).append(row)
  kept: list[int] = []
  for rows in by_relation.values():
    surest_first = sorted(rows, key=lambda row: -beliefs[row].max())
    kept += surest_first[: max(1, round(share * len(rows)))]
  return sorted(kept)


def _beliefs(
  run: SeedRun,
  facts: Sequence[Fact],
  teacher: str,
  least: float = answers.LEAST_TAUGHT,
) -> list[np.ndarray]:
  """Returns what the pretrained model believes of facts, asked as the arm `teacher` is."""
  question_of = registry.kind_of(run.config, teacher).question
  if question_of is None:
    raise ValueError(f"arms of the kind of {teacher!r} do not ask the pretrained model")
  asked_run, question = question_of(run, teacher)
  params = weights.pretrained(run)
  return answers.teacher_belief(asked_run, params, facts, question, least)


def problems(config: Config, name: str, ranks: bool) -> list[str]:
  """Returns what is wrong with the facts and labels of an arm that trains, a line each."""
  arm = config.arms[name]
  lines = []
  if arm.facts in MODEL_SETS and not (ranks and _asks_pretrained(config, config.roles.ceiling)):
    lines.append(
      f"config.arms.{name}.facts: {arm.facts!r} needs an arm that ranks as config.roles.ceiling: "
      "what it has right is known"
    )
  asks_teacher = arm.get("labels") in ("soft", "best") or "sure_share" in arm
  if ("teacher" in arm) != asks_teacher:
    lines.append(
      f"config.arms.{name}: labels='soft' or 'best', or sure_share, and teacher=ARM go together, "
      f"got labels={arm.get('labels')!r} and teacher={arm.get('teacher')!r}"
    )
  elif "teacher" in arm and not (ranks and _can_teach(config, arm.teacher)):
    expected = " or ".join(map(repr, registry.asking_kinds()))
    lines.append(
      f"config.arms.{name}.teacher: expected an arm of kind {expected} that ranks, got "
      f"{arm.teacher!r}"
    )
  without_belief = "gold_share" in arm and arm.get("labels") not in ("soft", "best")
  adjusted = arm.get("logit_adjustment") and (not ranks or arm.get("reweighted"))
  if without_belief or adjusted:
    lines.append(
      f"config.arms.{name}: gold_share goes with a teacher, and logit_adjustment with answers that "
      "are ranked, without reweighted"
    )
  return lines


def _can_teach(config: Config, name: str) -> bool:
  """Returns whether an arm asks the pretrained model, so that its answers can be taught."""
  return _asks_pretrained(config, name) and "of" not in config.arms[name]


def _asks_pretrained(config: Config, name: str) -> bool:
  return name in config.arms and config.arms[name].kind in registry.asking_kinds()
