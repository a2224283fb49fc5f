r"""Shrinks a study so that it runs in seconds: it shows that it runs, not what it finds.

  PYTHONPATH=.:tests python -m factshock.experiment --config=tests/gpu/tiny_study.py:trex_t5 ...

`trex_t5` is that config's study, `demo` the synthetic world's, each with two of its arms.
"""

import importlib

import ml_collections

from factshock.types import Config

_ARMS = {"trex_t5": ("zero_shot", "finetune"), "demo": ("zero_shot_question", "finetune")}


def get_config(name: str = "demo") -> Config:
  """Returns the config of the study."""
  config = importlib.import_module(f"factshock.configs.{name}").get_config()
  arms = {arm: config.arms[arm].to_dict() for arm in _ARMS[name]}
  config.arms = ml_collections.ConfigDict(arms, sort_keys=False)
  config.roles.update(dict(ceiling="", corrected="", remedies=()))
  config.world.update(dict(relations=2, subjects=40, answers=8, mean_mentions=3.0))
  config.mismatch.size = 20
  config.tokenizer.size = 600
  config.model.update(
    dict(d_model=16, d_ff=16, num_heads=2, d_kv=8, encoder_layers=1, decoder_layers=1)
  )
  config.pretrain.update(dict(steps=2, batch_size=8, warmup=1))
  config.finetune.update(dict(steps=2, batch_size=8, warmup=1, eval_steps=(2,)))
  config.diagnosis.resamples = 200
  config.cpu_devices = 1
  return config
