"""The tiny demo with the arms of configs/remedies.py that need no more than one finetuned model."""

import ml_collections
import tiny

from factshock.configs import remedies

KEEP = (
  "zero_shot_cloze",
  "zero_shot_question",
  "finetune",
  "weight_mixing",
  "decreasing_mixing",
  "last_layer_restored",
  "last_layer_only",
  "prior_cloze",
  "prior_counts",
  "prior_uniform",
  "prior_estimated",
  "mixing_prior_counts",
  "l2_sp",
  "encoder_only",
  "self_distilled",
  "mixture_without_test",
  "mixture_permuted",
  "known",
  "unknown_relabelled",
  "reweighted",
  "second_order",
  "third_order",
  "soup_of_orders",
  "kept",
  "run_average",
  "near_own_answers",
  "logit_adjusted",
  "moving_average",
)


def get_config():
  config = tiny.get_config()
  config.mixing.alphas, config.mixing.taus = (0.0, 0.5, 1.0), (0.0, 1.0)
  config.arms = ml_collections.ConfigDict(
    {name: remedies.arms()[name] for name in KEEP}, sort_keys=False
  )
  config.arms.kept.checkpoint_every, config.arms.run_average.steps = 2, (0, 4, 8)
  config.roles.update(dict(remedies=("weight_mixing", "prior_cloze"), corrected="prior_cloze"))
  return config
