"""A variant of the demo that runs in seconds: it shows that the parts fit, not the effects."""

import ml_collections

from factshock.configs import demo

KEEP = (
  "zero_shot_cloze",
  "zero_shot_question",
  "k_shot",
  "finetune",
  "mixture",
  "weight_mixing",
  "output_mixing",
  "combined",
  "popular_half",
  "unpopular_half",
  "majority",
)


def get_config():
  config = demo.get_config()
  config.name = "tiny"
  config.world.update(dict(relations=2, subjects=40, answers=8, mean_mentions=3.0))
  config.model.update(
    dict(d_model=16, d_ff=16, num_heads=2, d_kv=8, encoder_layers=1, decoder_layers=1)
  )
  config.pretrain.update(dict(steps=30, batch_size=16, warmup=5, checkpoint_every=10, log_every=10))
  config.finetune.update(
    dict(steps=8, batch_size=8, warmup=2, checkpoint_every=4, log_every=4, eval_steps=(0, 4, 8))
  )
  config.mixing.alphas = (0.0, 0.5, 1.0)
  config.answering.batch_size = 32
  config.diagnosis.resamples = 200
  config.cpu_devices = 2
  config.arms = ml_collections.ConfigDict(
    {name: demo.arms()[name] for name in KEEP}, sort_keys=False
  )
  config.roles.update(dict(corrected="", remedies=demo.PAPERS_REMEDIES))
  return config
