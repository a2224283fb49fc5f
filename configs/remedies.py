r"""Remedies for frequency shock, strong and weak, on the synthetic world: which of them is worth its price.

  python -m factshock.experiment --config=configs/remedies.py --workdir=runs/remedies --config.seeds=5

The demo's world, model and finetuning. After finetuning: weight mixing (the same everywhere, falling or rising in depth), parts put back,
answer-prior correction by the model's own cloze answers or by counts of the text, alone and on top of mixing. In finetuning: parts
frozen, low-rank adapters, L2-SP. Every remedy with a strength has it chosen on development facts.
Expect: not run yet over five seeds; docs/remedies.md says what is known. Time: 12 minutes a seed
on 2 CPU cores.
"""

import ml_collections
from configs import demo


def get_config():
  config = demo.get_config()
  config.name = "Remedies for frequency shock in a synthetic world"
  config.answering.top = 0  # prior correction needs every candidate
  config.arms = ml_collections.ConfigDict(arms(), sort_keys=False)
  config.roles.corrected = "prior_cloze"  # the finetuned arm with its answer prior restored, for the verdict
  config.roles.remedies = tuple(name for name, arm in arms().items() if arm.get("group") == "remedy" and not name.endswith("_order"))
  return config


def controls():
  """What the mixture owes to reading again about the facts under test, and what the labels that contradict the model do."""
  def mixture(title, **more):
    return dict(kind="finetune", facts="balanced", ratio=4.0, title=title, group="control", **more)

  def known(facts, title, **more):
    return dict(kind="finetune", facts=facts, title=title, group="which facts", **more)

  return {
      "mixture_without_test": mixture("Mixture, no sentence about test subjects", text="without_test"),
      "mixture_background": mixture("Mixture, background sentences only", text="background"),
      "mixture_random_words": mixture("Mixture, random words", text="random_words"),
      "mixture_permuted": mixture("Mixture, permuted answers", labels="permuted"),
      "known": known("known", "Known facts"),
      "unknown": known("unknown", "Unknown facts"),
      "unknown_relabelled": known("unknown", "Unknown facts, the model's own answers", labels="best", teacher="zero_shot_cloze"),
  }


def arms():
  def after(kind, title, of="finetune", **more):
    return dict(kind=kind, of=of, title=title, group="remedy", **more)

  def trained(title, **more):
    return dict(kind="finetune", facts="balanced", title=title, group="remedy", **more)

  end = ("last_layer", "head")
  names = ("zero_shot_cloze", "zero_shot_question", "finetune", "mixture", "weight_mixing", "output_mixing", "combined", "natural",
           "majority")
  return {
      **{name: demo.arms()[name] for name in names},
      "decreasing_mixing": after("weight_mixing", "Weight mixing, alpha falling in depth", profile="decreasing"),
      "increasing_mixing": after("weight_mixing", "Weight mixing, alpha rising in depth", profile="increasing"),
      "last_layer_restored": after("exchange", "Last layer and head put back", parts=end),
      "last_layer_only": after("exchange", "Only last layer and head finetuned", parts=end, only=True),
      "prior_cloze": after("prior_correction", "Prior correction by the cloze", prior="arm", with_arm="zero_shot_cloze"),
      "prior_counts": after("prior_correction", "Prior correction by counts", prior="counts"),
      "prior_uniform": after("prior_correction", "Prior correction to uniform", prior="uniform"),
      "prior_estimated": after("prior_correction", "Prior correction, estimated (EM)", prior="estimated"),
      "mixing_prior_counts": after("prior_correction", "Weight mixing .5 and prior correction", of="weight_mixing", at=.5, prior="counts"),
      "decreasing_prior_counts": after("prior_correction", "Falling mixing and prior correction", of="decreasing_mixing", at=1.0,
                                       prior="counts"),
      "l2_sp": trained("L2-SP .1", l2_sp=.1),
      "last_layer_frozen": trained("Last layer and head frozen", frozen=end),
      "attention_only": trained("Attention only", trained=("attention",)),
      "encoder_only": trained("Encoder only", trained=("encoder",)),
      "lora": trained("Low-rank adapters", lora_rank=8, learning_rate=3e-3),
      "reweighted": trained("Answers reweighted by counts", reweighted=True),
      "second_order": trained("Finetuning, another order", order=1),
      "third_order": trained("Finetuning, a third order", order=2),
      "soup_of_orders": dict(kind="soup", of_arms=("finetune", "second_order", "third_order"), title="Average of three orders", group="remedy"),
      "self_distilled": trained("Self-distilled from the cloze", labels="soft", teacher="zero_shot_cloze"),
      "self_distilled_hard": trained("Taught the cloze's best answers", labels="best", teacher="zero_shot_cloze"),
      **controls(),
  }
