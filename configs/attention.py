r"""Attention to the subject in real transformers: does it move as arXiv 2406.14785 says?

  factshock experiment --config=attention --workdir=runs/attention \
      --config.seeds=5

The theory: finetuning on little-known facts lowers attention to every subject, on well-known ones
raises it. The demo's world, model and finetuning; at every point WORKDIR/attention holds, of each
test fact, layer and head, the attention to the subject, what is read there for the answer, and how
strongly the fact is stored (answering/probes.py). Arms: which half to finetune on; remedies of the
unpopular half (does mixing weights or mixing in the pretraining task put attention back?); its
attention weights put back, and those of either half put into the pretrained model (is it attention
that errs?); queries and keys trained alone, as the theory has it; the pretraining task without a
question as a control. Expect: see docs/measurements. Time: under 10 minutes a seed on 2 CPU
cores.
"""

import ml_collections

from factshock.configs import demo
from factshock.configs.demo import Arms
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = demo.get_config()
  config.name = "Attention to the subject in a synthetic world"
  config.mixing.alphas = (0.0, 0.3, 0.5, 0.7, 1.0)
  config.arms = ml_collections.ConfigDict(arms(), sort_keys=False)
  config.roles.update(
    dict(
      zero_shot="zero_shot_question",
      finetuned="unpopular_half",
      ceiling="zero_shot_cloze",
      corrected="",
      remedies=(
        "weight_mixing",
        "mixture",
        "combined",
        "attention_restored",
        "unpopular_half_attention",
      ),
    )
  )
  return config


def arms() -> Arms:
  """Returns the arms by name."""
  half = "unpopular_half"
  names = ("zero_shot_cloze", "zero_shot_question", "whole", "popular_half", half, "random_half")
  of_demo = demo.arms()
  by_name = {name: of_demo[name] for name in names}
  for name in ("mixture", "language_model_only"):
    by_name[name] = {**of_demo[name], "facts": half}
  by_name["weight_mixing"] = dict(kind="weight_mixing", of=half, title="Weight mixing")
  by_name["combined"] = dict(kind="weight_mixing", of="mixture", title="Mixture and weight mixing")
  by_name["attention_restored"] = dict(
    kind="exchange", of=half, parts=("attention",), title="Attention put back", group="remedy"
  )
  for name, title in (("popular_half", "Popular half"), (half, "Unpopular half")):
    by_name[f"{name}_attention"] = dict(
      kind="exchange",
      of=name,
      parts=("attention",),
      only=True,
      group="which facts",
      title=f"{title}, its attention weights in the pretrained model",
    )
    by_name[f"{name}_query_key"] = dict(
      kind="finetune",
      facts=name,
      trained=("query_key",),
      group="which facts",
      title=f"{title}, queries and keys trained alone",
    )
  return {name: {**arm, "attention": True} for name, arm in by_name.items()}
