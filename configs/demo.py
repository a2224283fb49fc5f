"""Frequency shock and its repair in a synthetic world, on a laptop, without a download.

What it shows: finetuning a small T5 on facts whose answers are distributed unlike the world's helps at
first and harms beyond a point; rare answers that finetuning names are over-predicted and common ones it
does not name are under-predicted (arXiv 2301.11293); mixing weights and mixing in the pretraining task
repair it; well-known facts are the better ones to finetune on (arXiv 2406.14785).
Expect: see docs/measurements.md. Time: under 10 minutes a seed on 2 CPU cores.

  bash launch/demo.sh
  python -m factshock.experiment --config=configs/demo.py --workdir=runs/demo --config.seeds=3
"""

import ml_collections
from ml_collections import config_dict


def get_config():
  config = ml_collections.ConfigDict()
  config.name = "Frequency shock in a synthetic world"
  # A number n runs seeds 0 to n-1; a list runs these: --config.seeds=0,3. A seed changes everything random.
  config.seeds = config_dict.FieldReference(1, field_type=object)

  # Facts: "world" makes them; a path reads them (see configs/own_facts.py).
  config.facts = "world"
  config.relations = ""
  config.corpus = ""
  config.corpus_weights = ()  # of several corpora, by commas in config.corpus: the share of each in the pretraining task
  config.corpus_cache = ""  # where a corpus is kept tokenised; WORKDIR/corpus by default
  config.entity_counts = (
    ""  # counts.tsv of `python -m factshock.count`, in the place of counting in the corpus
  )
  config.drop_named_answers = False  # leave out facts whose subject's name holds the answer
  config.popularity = (
    "popularity"  # the column that halves go by; a user's own, or `confidence` or `known`
  )
  config.world = ml_collections.ConfigDict(
    dict(
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
  )

  # Subject-disjoint shares of the facts.
  config.split = ml_collections.ConfigDict(dict(pool=0.5, development=0.125, test=0.375))
  # The mismatched finetuning set: facts of every other answer by rank, at most so many an answer.
  config.balanced = ml_collections.ConfigDict(dict(per_answer=4))
  # The sets low_mismatch and high_mismatch: facts whose answers differ from the test facts' by these total variations.
  config.mismatch = ml_collections.ConfigDict(dict(low=0.3, high=0.7, size=300))

  config.tokenizer = ml_collections.ConfigDict(dict(kind="words", path="", size=4000, sentinels=24))

  # T5 v1.1 shape; vocab_size 0: the tokenizer's. remat: what the reverse pass keeps of each layer, "none" computes nothing
  # again; "full" keeps least, "dots" and "dots_no_batch" are between them (models/remat.py). attention: "xla"; "cudnn", a kernel
  # for bfloat16 on an NVIDIA GPU, without packed rows and dropout; "auto", that where it can (models/fused.py).
  config.model = ml_collections.ConfigDict(
    dict(
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
  )
  config.start_from = ""  # a checkpoint to start from; empty: random weights

  # The pretraining task: span corruption, one sentence a sequence. `pack` puts several examples into a row of
  # these lengths where they are shorter; here all are about as long.
  config.pretrain = ml_collections.ConfigDict(
    dict(
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
  )

  # Finetuning on facts; an arm may override any value of it.
  config.finetune = ml_collections.ConfigDict(
    dict(
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
  )  # rank 0: all weights are trained

  config.mixing = ml_collections.ConfigDict(
    dict(
      alphas=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
      taus=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
    )
  )  # of prior corrections
  # "rank" scores every answer of the relation; "generate" lets the model say what it will, at most `max_tokens` tokens.
  config.answering = ml_collections.ConfigDict(
    dict(batch_size=320, top=10, mode="rank", max_tokens=16)
  )
  config.diagnosis = ml_collections.ConfigDict(
    dict(criterion="exact_match", resamples=1000, confidence=0.95)
  )
  # Devices along each axis, -1: what is left. Batches are cut over data and fsdp, weights over fsdp and model (models/sharding.py).
  config.mesh = ml_collections.ConfigDict(dict(data=-1, fsdp=1, model=1))
  config.parallel = "mesh"  # or "pmap": all weights on each device
  config.cpu_devices = (
    0  # data-parallel host devices without an accelerator; 0: a device a core, at most 8
  )

  # The arms: what each one does (kinds: factshock/study/arms.py), and its title in the report.
  config.arms = ml_collections.ConfigDict(arms(), sort_keys=False)
  # Who plays which part in comparisons and pictures.
  config.roles = ml_collections.ConfigDict(
    dict(
      zero_shot="zero_shot_question",
      finetuned="finetune",
      ceiling="zero_shot_cloze",
      corrected="",
      remedies=("weight_mixing", "output_mixing", "mixture", "combined"),
    )
  )
  return config


def arms():
  def finetune(facts, title, group, **more):
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
