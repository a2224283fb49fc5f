"""Demo's study on facts and text of one's own: a T5 from scratch, or from a checkpoint.

  factshock experiment --config=own_facts --workdir=runs/own \
      --facts=facts.jsonl --relations=relations.jsonl --corpus=text.txt

facts.jsonl      {"subject": "Ada Byron", "relation": "born_in", "object": "London"} a line (or csv,
tsv, parquet)
relations.jsonl  {"relation": "born_in", "statements": ["[X] was born in [Y] ."], "questions":
["Where was [X] born ?"]}
text.txt         one sentence or paragraph a line (.gz too, and patterns: 'text/*.txt.gz')

Facts are asked by the relation's first statement; with --config=own_facts:question by
its question. Pretraining masks the object (0.6), the subject (0.1) or a random span (0.3) in
windows of 16 words that name a fact's subject and object, as plain span corruption learns little
from a small text; for that choose --config.pretrain.masking=spans. A SentencePiece model is trained
on the text, or given: --config.tokenizer.path. Expect: see docs/measurements. Time: three
relations with 12,000 sentences, 9 minutes on 2 CPU cores.
"""

import ml_collections

from factshock.configs import demo
from factshock.configs.demo import Arms
from factshock.types import Config


def get_config(prompt: str = "cloze") -> Config:
  """Returns the config of the study."""
  config = demo.get_config()
  config.name = "Frequency shock on own facts and text"
  config.facts = "facts.jsonl"
  config.relations = "relations.jsonl"
  config.corpus = "text.txt"
  config.tokenizer.update(dict(kind="sentencepiece", size=4000, sentinels=100))
  config.pretrain.update(
    dict(steps=1500, input_length=24, target_length=8, pack=True, masking="salient")
  )
  config.finetune.update(
    dict(input_length=40, target_length=16, pack=True, learning_rate=1e-3, prompt=prompt)
  )
  config.arms = ml_collections.ConfigDict(arms(prompt), sort_keys=False)
  config.roles.update(
    dict(
      zero_shot="zero_shot",
      ceiling="best_cloze",
      corrected="",
      remedies=demo.PAPERS_REMEDIES,
    )
  )
  return config


def arms(prompt: str) -> Arms:
  """Returns the demo's arms, asked by one prompt.

  The best statement of each relation serves as the ceiling of what is known. Left out are the
  prior corrections, for which every candidate's score would have to be kept: many, of own facts.
  """
  others = {
    name: arm
    for name, arm in demo.arms().items()
    if arm["kind"] != "prompted" and name not in demo.CHEAP_REMEDIES
  }
  others["output_mixing"]["with_arm"] = "zero_shot"
  return dict(
    zero_shot=dict(kind="prompted", prompt=prompt, title="Zero-shot"),
    k_shot=dict(kind="prompted", prompt=prompt, shots=2, title="2-shot"),
    best_cloze=dict(kind="best_cloze", title="Best cloze (known facts)"),
    **others,
  )
