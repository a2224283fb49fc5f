"""Frequency shock and its repair in a synthetic world, on a laptop, without a download.

Finetuning a small T5 on facts whose answers are distributed unlike the world's helps at first and
harms beyond a point: rare answers that finetuning names are over-predicted and common ones that it
does not name are under-predicted (arXiv 2301.11293). Mixing weights and mixing in the pretraining
task repair it. Well-known facts are the better ones to finetune on (arXiv 2406.14785). Beyond the
papers: mixing that falls in depth and correction of the answer prior, which train nothing.
Expect: see docs/measurements. Time: under 10 minutes a seed on 2 CPU cores.
What each key says: `factshock configs demo`.

  bash launch/demo.sh
  factshock experiment --config=demo --workdir=runs/demo --config.seeds=3
"""

from typing import Any, TypeAlias

import ml_collections
from ml_collections import config_dict

from factshock.types import Config

Arm: TypeAlias = dict[str, Any]  # a kind and its keys
Arms: TypeAlias = dict[str, Arm]  # by name, in the order of the report

PAPERS_REMEDIES = ("weight_mixing", "output_mixing", "mixture", "combined")
# They train nothing; prior corrections need every candidate's score (config.answering.mode="rank").
CHEAP_REMEDIES = ("decreasing_mixing", "prior_cloze", "decreasing_prior_counts")


def get_config() -> Config:
  """Returns the config of the study."""
  config = ml_collections.ConfigDict()
  config.name = "Frequency shock in a synthetic world"
  config.seeds = config_dict.FieldReference(1, field_type=object)
  _set_facts(config)
  config.tokenizer = section(kind="words", path="", size=4000, sentinels=24)
  config.model = _model()
  config.start_from = ""
  config.pretrain = _pretraining()
  config.finetune = _finetuning()
  config.mixing = section(
    alphas=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    taus=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),  # of prior corrections
  )
  config.answering = section(batch_size=320, top=10, mode="rank", max_tokens=16)
  config.diagnosis = section(criterion="exact_match", resamples=1000, confidence=0.95)
  config.loggers = "jsonl,tensorboard"
  config.mesh = section(data=-1, fsdp=1, model=1)
  config.parallel = "mesh"
  config.cpu_devices = 0
  config.arms = ml_collections.ConfigDict(arms(), sort_keys=False)
  config.roles = section(
    zero_shot="zero_shot_question",
    finetuned="finetune",
    ceiling="zero_shot_cloze",
    corrected="prior_cloze",
    remedies=(*PAPERS_REMEDIES, *CHEAP_REMEDIES),
  )
  return config


def section(**values: Any) -> Config:
  """Returns a section of a config with these values."""
  return ml_collections.ConfigDict(values)


def _set_facts(config: Config) -> None:
  """Sets what says where facts and text come from, and how facts are split."""
  config.facts = "world"
  config.relations = ""
  config.corpus = ""
  config.corpus_weights = ()
  config.corpus_cache = ""
  config.entity_counts = ""
  config.drop_named_answers = False
  config.popularity = "popularity"
  config.world = section(
    relations=4,
    subjects=640,
    answers=80,
    zipf=1.0,
    mean_mentions=12.0,
    popularity_sigma=1.0,
    templates=4,
    background=0.1,
    name_pieces=64,
  )
  config.split = section(pool=0.5, development=0.125, test=0.375)
  config.balanced = section(per_answer=4)
  config.mismatch = section(low=0.3, high=0.7, size=300)


def _model() -> Config:
  """Returns the sizes of a small T5 v1.1."""
  return section(
    family="t5",
    vocab_size=0,
    d_model=128,
    d_ff=256,
    num_heads=4,
    d_kv=32,
    encoder_layers=2,
    decoder_layers=2,
    relative_buckets=32,
    relative_max_distance=128,
    feed_forward="gated-gelu",
    tie_head=False,
    epsilon=1e-6,
    dropout=0.0,
    dtype="float32",
    param_dtype="float32",
    unroll=True,
    remat="none",
    attention="xla",
  )


def _pretraining() -> Config:
  """Returns the pretraining task: span corruption, one sentence a sequence.

  `pack` puts several examples into a row of these lengths where they are shorter; here all are
  about as long.
  """
  return section(
    steps=3000,
    batch_size=128,
    input_length=10,
    target_length=4,
    pack=False,
    accumulate=1,
    optimizer="adafactor",
    learning_rate=1e-2,
    schedule="cosine",
    final=0.05,
    warmup=100,
    b2=0.98,
    weight_decay=0.0,
    clip=1.0,
    checkpoint_every=1000,
    log_every=50,
    masking="spans",
    noise_density=0.15,
    mean_span_length=3.0,
    roll=True,
    object_share=0.6,
    subject_share=0.1,
    window_words=16,
    windows_per_fact=8,
  )


def _finetuning() -> Config:
  """Returns how arms are finetuned on facts; an arm may override any value."""
  return section(
    steps=200,
    batch_size=32,
    input_length=10,
    target_length=4,
    pack=False,
    accumulate=1,
    optimizer="adamw",
    learning_rate=3e-4,
    schedule="constant",
    final=1.0,
    warmup=20,
    b2=0.98,
    weight_decay=0.0,
    clip=1.0,
    checkpoint_every=1000,
    log_every=25,
    eval_steps=(0, 10, 25, 50, 100, 200),
    prompt="question",
    lora_rank=0,
    lora_alpha=16.0,
    lora_targets=("query", "value"),
  )


def arms() -> Arms:
  """Returns the arms by name."""

  def finetune(facts: str, title: str, group: str, **more: Any) -> Arm:
    return dict(kind="finetune", facts=facts, title=title, group=group, **more)

  return dict(
    zero_shot_cloze=dict(kind="prompted", prompt="cloze", title="Zero-shot cloze (ceiling)"),
    zero_shot_question=dict(kind="prompted", prompt="question", title="Zero-shot question"),
    k_shot=dict(kind="prompted", prompt="question", shots=2, title="2-shot question"),
    finetune=finetune("balanced", "Finetuning", "baseline"),
    mixture=finetune("balanced", "Mixture finetuning 4:1", "remedy", ratio=4.0),
    weight_mixing=dict(kind="weight_mixing", of="finetune", title="Weight mixing"),
    output_mixing=dict(
      kind="output_mixing", of="finetune", with_arm="zero_shot_question", title="Output mixing"
    ),
    combined=dict(kind="weight_mixing", of="mixture", title="Mixture and weight mixing"),
    **_cheap_remedies(),
    whole=finetune("whole", "Whole pool", "which facts"),
    popular_half=finetune("popular_half", "Popular half", "which facts"),
    unpopular_half=finetune("unpopular_half", "Unpopular half", "which facts"),
    random_half=finetune("random_half", "Random half", "which facts"),
    natural=finetune("natural", "Finetuning, natural answers", "control"),
    language_model_only=finetune(
      "balanced", "Mixture without question loss", "control", ratio=4.0, question_weight=0.0
    ),
    random_init=finetune("balanced", "Finetuning from random weights", "control", start="random"),
    majority=dict(kind="majority", title="Majority answer"),
  )


def _cheap_remedies() -> Arms:
  """Returns the arms CHEAP_REMEDIES."""
  return dict(
    decreasing_mixing=dict(
      kind="weight_mixing",
      of="finetune",
      profile="decreasing",
      title="Weight mixing, alpha falling in depth",
    ),
    prior_cloze=dict(
      kind="prior_correction",
      of="finetune",
      prior="arm",
      with_arm="zero_shot_cloze",
      title="Prior correction by the cloze",
    ),
    decreasing_prior_counts=dict(
      kind="prior_correction",
      of="decreasing_mixing",
      at=1.0,
      prior="counts",
      title="Falling mixing and prior correction",
    ),
  )
