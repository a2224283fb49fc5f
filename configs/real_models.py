"""Study of both papers' claims on a pretrained decoder of the hub or of a package, on facts alone.

smollm2_135m and gemma3_270m name the models; `bash launch/real_model.sh` runs the first, as does
`factshock experiment --config=smollm2_135m` where its packages are. Facts are
asked by clozes and ranked among all known answers of their relation. Finetuning is short, as a
model that knows something is soon changed: see docs/measurements/real_models.md, also for how the
settings were chosen.
Expect: see docs/measurements/real_models.md. Time: in each config.
"""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from factshock.configs import demo, pretrained, remedies
from factshock.configs.demo import Arm, Arms
from factshock.runtime.errors import UserError
from factshock.types import Config

# Cities and countries, popularity is the population. A reversed relation (the capital of a country)
# would tell answers of the test facts.
GEONAMES = (
  "geonames:?relations=country,capital_of,continent,currency&max_answer_tokens=1&limit=1000"
)
WORDFREQ = "wordfreq:en"

VARIANTS = ("", "text")

# Arms whose attention to subjects is written down, for the second paper's claim.
ATTENTION = (
  "zero_shot",
  "finetune",
  "natural",
  "weight_mixing",
  "whole",
  "popular_half",
  "unpopular_half",
  "confident_half",
  "unconfident_half",
)


def packaged(package: str, pattern: str, hub: str) -> str:
  """Returns the model's file in an installed package, or else its name on the hub."""
  found = importlib.util.find_spec(package)
  for folder in (found.submodule_search_locations or ()) if found else ():
    for path in sorted(pathlib.Path(folder).glob(pattern)):
      return str(path)
  return hub


def of(
  model: str,
  name: str,
  sizes: Mapping[str, Any],
  variant: str = "",
  learning_rate: float = 1e-4,
) -> Config:
  """Returns the config of the study of a model.

  Args:
    model: a GGUF file, a HuggingFace folder or a hub id of a decoder.
    name: the model's, in titles.
    sizes: its `model` section, but for how it computes.
    variant: "text" adds the mixtures with sentences of config.corpus, which is then needed.
    learning_rate: AdamW's, the best on development facts.
  """
  if variant not in VARIANTS:
    raise UserError(f"expected a config's variant to be :text or nothing, got :{variant}")
  # Layers are computed again in the reverse pass: a tenth of a step's time, a quarter of a GB.
  computed = dict(dtype="auto", param_dtype="float32", remat="full")
  config = pretrained.of(model, {**sizes, **computed})
  config.name = f"Frequency shock of {name}"
  config.facts = GEONAMES
  config.relations = ""  # those of the source
  config.entity_counts = WORDFREQ
  config.drop_named_answers = True
  config.split.update(dict(pool=0.5, development=0.1, test=0.4))
  config.mismatch.update(dict(low=0.3, high=0.6, size=240))  # what seeds 0 to 7 all reach
  config.pretrain.update(dict(input_length=32, batch_size=8))  # about a sentence
  config.finetune.update(
    dict(
      steps=40,
      batch_size=8,
      input_length=64,
      optimizer="adamw",
      learning_rate=learning_rate,
      warmup=4,
      eval_steps=(10, 40),
      checkpoint_every=1000,
      log_every=10,
      prompt="cloze",
      pack=False,
    )
  )
  config.mixing.update(dict(alphas=(0.25, 0.5, 0.75), taus=(0.0, 0.25, 0.5, 0.75, 1.0)))
  config.answering.update(dict(mode="rank", batch_size=64))
  config.arms = ml_collections.ConfigDict(arms(variant), sort_keys=False)
  config.roles.update(
    dict(
      zero_shot="zero_shot",
      finetuned="finetune",
      ceiling="zero_shot",
      corrected="prior_own",
      remedies=_remedies(variant),
    )
  )
  return config


def arms(variant: str = "") -> Arms:
  """Returns the arms by name."""

  def finetune(facts: str, title: str, group: str = "which facts") -> Arm:
    return dict(kind="finetune", facts=facts, title=title, group=group)

  by_name: Arms = dict(
    zero_shot=dict(kind="prompted", prompt="cloze", title="Zero-shot"),
    k_shot=dict(kind="prompted", prompt="cloze", shots=4, title="4-shot"),
    finetune=finetune("high_mismatch", "Finetuning, high mismatch", "baseline"),
    natural=finetune("low_mismatch", "Finetuning, low mismatch", "control"),
    **_mended(),
    whole=finetune("whole", "Whole pool"),
    popular_half=finetune("popular_half", "Popular half"),
    unpopular_half=finetune("unpopular_half", "Unpopular half"),
    random_half=finetune("random_half", "Random half"),
    confident_half=finetune("confident_half", "Half it is surer of"),
    unconfident_half=finetune("unconfident_half", "Half it is less sure of"),
    majority=dict(kind="majority", title="Majority answer"),
    naive_bayes=dict(kind="naive_bayes", title="Naive Bayes on the subject's words"),
  )
  if variant == "text":
    by_name |= _with_text()
  for name in ATTENTION:
    by_name[name]["attention"] = True
  return by_name


def _mended() -> Arms:
  """Returns the remedies that need no text."""
  facts = "high_mismatch"
  own = remedies.own_text_and_answers(facts, teacher="zero_shot")
  after = remedies.remedies(facts, own="zero_shot", teacher="zero_shot")
  return dict(
    weight_mixing=after["weight_mixing"],
    decreasing_mixing=after["decreasing_mixing"],
    output_mixing=dict(demo.arms()["output_mixing"], with_arm="zero_shot"),
    replay=own["replay"],
    combined=dict(after["combined"], of="replay", title="Own text and weight mixing"),
    prior_own=after["prior_own"],
    self_distilled=dict(after["self_distilled"], title="Self-distilled from zero-shot"),
    believed=own["believed"],
    surest=own["surest"],
  )


def _with_text() -> Arms:
  """Returns the remedies that read sentences of a corpus."""
  mixture = dict(
    kind="finetune",
    facts="high_mismatch",
    ratio=1.0,
    title="Mixture 1:1 with sentences",
    group="remedy",
  )
  both = dict(kind="weight_mixing", of="mixture", title="Sentences and weight mixing")
  return dict(mixture=mixture, mixture_mixed=both)


def _remedies(variant: str) -> tuple[str, ...]:
  """Returns the remedies that are drawn."""
  drawn = ("weight_mixing", "replay", "combined", "output_mixing", "prior_own", "self_distilled")
  return (*drawn, "mixture", "mixture_mixed") if variant == "text" else drawn
