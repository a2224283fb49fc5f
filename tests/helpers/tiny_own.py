"""A variant of configs/own_facts.py that runs in seconds, with the arms that touch every part."""

import ml_collections
import tiny

from factshock.configs import own_facts

KEEP = ("zero_shot", "best_cloze", "mixture", "combined")


def get_config(prompt="cloze"):
  small, config = tiny.get_config(), own_facts.get_config(prompt)
  config.tokenizer.size = 120
  config.model.update(small.model)
  config.pretrain.update(dict(steps=6, batch_size=8, warmup=2))
  config.finetune.update(dict(steps=4, batch_size=8, warmup=2, eval_steps=(4,)))
  config.mixing.alphas = (0.5,)
  config.diagnosis.resamples = 200
  config.cpu_devices = 1
  config.arms = ml_collections.ConfigDict(
    {name: own_facts.arms(prompt)[name] for name in KEEP}, sort_keys=False
  )
  config.roles.update(dict(finetuned="mixture", remedies=("combined",)))
  return config
