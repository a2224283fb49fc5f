"""A variant of configs/pretrained.py that runs in seconds, with a few arms."""

import ml_collections

from factshock.configs import own_facts, pretrained

KEEP = ("zero_shot", "mixture", "weight_mixing")


def get_config(model):
  config = pretrained.get_config(model)
  config.model.dtype = "float32"
  config.finetune.update(
    dict(steps=4, batch_size=8, warmup=1, eval_steps=(4,), checkpoint_every=2, learning_rate=1e-3)
  )
  config.pretrain.update(dict(input_length=64))
  config.mixing.alphas = (0.5,)
  config.diagnosis.resamples = 200
  config.cpu_devices = 2
  arms = own_facts.arms("question")
  arms["weight_mixing"]["of"] = "mixture"
  config.arms = ml_collections.ConfigDict({name: arms[name] for name in KEEP}, sort_keys=False)
  config.roles.update(dict(finetuned="mixture", ceiling="", remedies=("weight_mixing",)))
  return config
