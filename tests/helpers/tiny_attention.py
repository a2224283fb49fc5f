"""A variant of configs/attention.py that runs in seconds, with every kind of arm that can be
observed.
"""

import ml_collections
import tiny

from factshock.configs import attention

KEEP = ("zero_shot_cloze", "unpopular_half", "weight_mixing", "attention_restored")


def get_config(**attention_of):
  """Of arms in `attention_of` the key `attention` is as given there, else True."""
  config = tiny.get_config()
  arms = {name: attention.arms()[name] for name in KEEP}
  arms["average"] = dict(kind="soup", of_arms=("unpopular_half",), steps=(0, 4))
  config.arms = ml_collections.ConfigDict(
    {name: {**arm, "attention": attention_of.get(name, True)} for name, arm in arms.items()},
    sort_keys=False,
  )
  config.pretrain.steps, config.mixing.alphas = 8, (0.0, 1.0)
  config.finetune.update(dict(steps=4, eval_steps=(0, 4)))
  config.roles.update(
    dict(zero_shot="zero_shot_cloze", finetuned="unpopular_half", ceiling="", remedies=())
  )
  return config
