r"""Remedies for frequency shock on the synthetic world: which of them is worth its price.

  factshock experiment --config=remedies --workdir=runs/remedies \
      --config.seeds=5

The demo's world, model and finetuning. After finetuning: weight mixing (the same everywhere,
falling or rising in depth), parts put back, answer-prior correction by the model's own cloze
answers or by counts of the text, alone and on top of mixing. In finetuning: parts frozen, low-rank
adapters, L2-SP. Every remedy with a strength has it chosen on development facts. The stronger ones
are compared on four finetuning sets: `balanced` (answers unlike the world's), `natural_100`,
`unpopular_half` and `whole`. Expect: self-distillation .49 after finetuning at .27, mixing that
falls in depth with prior correction .45; docs/remedies.md. Time: 20 minutes a seed on 2 CPU cores.
"""

from typing import Any

import ml_collections

from factshock.configs import demo
from factshock.configs.demo import Arm, Arms
from factshock.types import Config

SETS = {
  "natural_100": "100 natural facts",
  "unpopular_half": "Unpopular half",
  "whole": "Whole pool",
}  # beside "balanced"
DRAWN = (
  "weight_mixing",
  "mixture",
  "combined",
  "prior_counts",
  "mixing_prior_counts",
  "self_distilled",
)  # in the report's pictures
END = ("last_layer", "head")


def get_config() -> Config:
  """Returns the config of the study."""
  config = demo.get_config()
  config.name = "Remedies for frequency shock in a synthetic world"
  config.mixing.update(dict(alphas=(0.0, 0.25, 0.5, 0.75, 1.0), taus=(0.0, 0.5, 1.0, 1.5, 2.0)))
  config.arms = ml_collections.ConfigDict(arms(), sort_keys=False)
  # The finetuned arm with its answer prior restored, for the verdict.
  config.roles.corrected = "prior_cloze"
  config.roles.remedies = DRAWN
  return config


def arms() -> Arms:
  """Returns the arms by name."""
  names = (
    "zero_shot_cloze",
    "zero_shot_question",
    "finetune",
    "output_mixing",
    "natural",
    "majority",
  )
  by_name = {name: demo.arms()[name] for name in names}
  by_name |= remedies("balanced")
  by_name |= weak("balanced")
  by_name |= own_text_and_answers("balanced")
  by_name |= controls("balanced")
  for name, title in SETS.items():
    by_name[name] = dict(
      kind="finetune",
      facts=name,
      title=f"Finetuning, {title.lower()}",
      group=f"finetuning on {title.lower()}",
    )
    for remedy, arm in remedies(name, name, f"{name}_").items():
      by_name[f"{name}_{remedy}"] = {
        **arm,
        "group": f"{arm['group']}, {title.lower()}",
        "title": f"{arm['title']} ({title.lower()})",
      }
  return by_name


def remedies(
  facts: str,
  finetune: str = "finetune",
  prefix: str = "",
  own: str = "zero_shot_question",
  teacher: str = "zero_shot_cloze",
) -> Arms:
  """Returns the stronger remedies for finetuning on one set: arms by name without the prefix.

  Args:
    facts: the finetuning set.
    finetune: the arm to mend.
    prefix: what begins the names of the arms that these arms name.
    own: the arm of the pretrained model that is asked as the finetuned one is.
    teacher: the arm of the pretrained model that is asked by its best prompt.
  """

  return {
    **_mixed(facts, finetune, prefix),
    **_prior_corrections(finetune, prefix, own, teacher),
    "l2_sp": _trained(facts, "L2-SP .1", l2_sp=0.1),
    "self_distilled": _trained(
      facts, "Self-distilled from the cloze", labels="soft", teacher=teacher
    ),
    **_averaged(facts, prefix),
  }


def _trained(facts: str, title: str, **more: Any) -> Arm:
  """Returns a remedy in finetuning."""
  return dict(kind="finetune", facts=facts, title=title, group="remedy", **more)


def _after(kind: str, title: str, of: str, **more: Any) -> Arm:
  """Returns a remedy after finetuning, of an arm."""
  return dict(kind=kind, of=of, title=title, group="remedy", **more)


def _mixed(facts: str, finetune: str, prefix: str) -> Arms:
  """Returns the mixture, mixings of weights, and exchanges of some of them."""
  weight_mixing = "weight_mixing"
  falling = "Weight mixing, alpha falling in depth"
  rising = "Weight mixing, alpha rising in depth"
  end_put_back = "Last layer and head put back"
  end_only = "Only last layer and head finetuned"
  return {
    "mixture": _trained(facts, "Mixture finetuning 4:1", ratio=4.0),
    "weight_mixing": _after(weight_mixing, "Weight mixing", finetune),
    "combined": _after(weight_mixing, "Mixture and weight mixing", f"{prefix}mixture"),
    "decreasing_mixing": _after(weight_mixing, falling, finetune, profile="decreasing"),
    "increasing_mixing": _after(weight_mixing, rising, finetune, profile="increasing"),
    "last_layer_restored": _after("exchange", end_put_back, finetune, parts=END),
    "last_layer_only": _after("exchange", end_only, finetune, parts=END, only=True),
  }


def _prior_corrections(finetune: str, prefix: str, own: str, teacher: str) -> Arms:
  """Returns corrections of the answer prior, alone and on top of mixing."""

  def corrected(title: str, of: str = finetune, **more: Any) -> Arm:
    return _after("prior_correction", title, of, **more)

  return {
    "prior_cloze": corrected("Prior correction by the cloze", prior="arm", with_arm=teacher),
    "prior_own": corrected("Prior correction by its answers before", prior="arm", with_arm=own),
    "prior_counts": corrected("Prior correction by counts", prior="counts"),
    "mixing_prior_counts": corrected(
      "Weight mixing .5 and prior correction", f"{prefix}weight_mixing", at=0.5, prior="counts"
    ),
    "decreasing_prior_counts": corrected(
      "Falling mixing and prior correction", f"{prefix}decreasing_mixing", at=1.0, prior="counts"
    ),
  }


def _averaged(facts: str, prefix: str) -> Arms:
  """Returns a run whose checkpoints are kept, and the average of four of them and of its start."""
  kept = dict(
    kind="finetune",
    facts=facts,
    title="Finetuning, checkpoints kept",
    group="control",
    checkpoint_every=50,
    keep_checkpoints=True,
  )
  average = dict(
    kind="soup",
    of_arms=(f"{prefix}kept",),
    steps=(0, 50, 100, 150, 200),
    title="Average of one run and its start",
    group="remedy",
  )
  return {"kept": kept, "run_average": average}


def weak(facts: str, own: str = "zero_shot_question", teacher: str = "zero_shot_cloze") -> Arms:
  """Returns remedies that were weak in an earlier look, arms by name; see `remedies`."""

  def prior(title: str, prior: str) -> Arm:
    return dict(kind="prior_correction", of="finetune", title=title, group="remedy", prior=prior)

  def reordered(title: str, order: int) -> Arm:
    return dict(kind="finetune", facts=facts, title=title, group="control", order=order)

  return {
    "self_distilled_hard": _trained(
      facts, "Taught the cloze's best answers", labels="best", teacher=teacher
    ),
    "near_own_answers": _trained(
      facts, "Near its own answers to questions (KL)", labels="soft", teacher=own, gold_share=0.5
    ),
    "logit_adjusted": _trained(facts, "Logit-adjusted loss", logit_adjustment=1.0),
    "moving_average": _trained(facts, "Moving average of weights .99", ema=0.99),
    "prior_uniform": prior("Prior correction to uniform", "uniform"),
    "prior_estimated": prior("Prior correction, estimated (EM)", "estimated"),
    "last_layer_frozen": _trained(facts, "Last layer and head frozen", frozen=END),
    "attention_only": _trained(facts, "Attention only", trained=("attention",)),
    "encoder_only": _trained(facts, "Encoder only", trained=("encoder",)),
    "lora": _trained(facts, "Low-rank adapters", lora_rank=8, learning_rate=3e-3),
    "reweighted": _trained(facts, "Answers reweighted by counts", reweighted=True),
    "second_order": reordered("Finetuning, another order", 1),
    "third_order": reordered("Finetuning, a third order", 2),
    "soup_of_orders": dict(
      kind="soup",
      of_arms=("finetune", "second_order", "third_order"),
      title="Average of three orders",
      group="remedy",
    ),
  }


def own_text_and_answers(facts: str, teacher: str = "zero_shot_cloze") -> Arms:
  """Returns remedies that need the pretrained model alone, no text, and one less the labels.

  `replay` mixes in text that the model wrote itself; `believed` teaches the answers that it is
  surest of (arXiv 2507.08371), `surest` the objects of the same facts.
  """

  sure = dict(teacher=teacher, sure_share=0.5)
  return {
    "replay": _trained(facts, "Mixture 1:1 with the model's own text", ratio=1.0, text="replay"),
    "believed": _trained(facts, "Answers it is surest of", labels="best", **sure),
    "surest": _trained(facts, "Facts it is surest of", **sure),
  }


def controls(facts: str, teacher: str = "zero_shot_cloze") -> Arms:
  """Returns controls of the mixture and of labels that contradict the model, arms by name.

  The first say what the mixture owes to reading again about the facts under test.
  """

  def mixture(title: str, **more: Any) -> Arm:
    return dict(kind="finetune", facts=facts, ratio=4.0, title=title, group="control", **more)

  def known(facts: str, title: str, **more: Any) -> Arm:
    return dict(kind="finetune", facts=facts, title=title, group="which facts", **more)

  return {
    "mixture_without_test": mixture(
      "Mixture, no sentence about test subjects", text="without_test"
    ),
    "mixture_background": mixture("Mixture, background sentences only", text="background"),
    "mixture_random_words": mixture("Mixture, random words", text="random_words"),
    "mixture_permuted": mixture("Mixture, permuted answers", labels="permuted"),
    "known": known("known", "Known facts"),
    "unknown": known("unknown", "Unknown facts"),
    "unknown_relabelled": known(
      "unknown", "Unknown facts, the model's own answers", labels="best", teacher=teacher
    ),
  }
