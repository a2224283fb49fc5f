"""Theory of the second paper (arXiv 2406.14785) in its one-layer transformer, exactly.

What it asks: is a fact stored the better the more often pretraining stated it; does a fact's
salience decide whether finetuning on it turns attention to the subject or to the relation; does
finetuning on lesser-known facts therefore make the model ignore every subject of a relation; and
where do the harms begin? The page says of each of the theory's five predictions whether it holds.
Expect: see docs/measurements; most of them hold, in part. The least stored fifth of facts lowers
attention to subjects and the best stored fifth raises it; but the unpopular half of subjects raises
it too, only less than the popular half does; the gap is largest for subjects of middling
popularity; and when all is stored well the unpopular half is the better one. Time: about 5 minutes
on 2 CPU cores, of which the five predictions take less than one.

  factshock experiment --config=one_layer
"""

import ml_collections
from ml_collections import config_dict

from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = ml_collections.ConfigDict()
  config.study = "one_layer"
  config.name = "The one-layer theory"
  config.seeds = config_dict.FieldReference(20, field_type=object)

  # Subjects are Zipf distributed in the corpus, relations uniform, the `answers` of each relation
  # Zipf distributed over its subjects; the corpus states every fact at least once. A share `test`
  # of the subjects is asked about and never finetuned on.
  config.world = ml_collections.ConfigDict(
    dict(
      subjects=1000, relations=5, answers=20, zipf=1.0, answer_zipf=1.0, sentences=100_000, test=0.5
    )
  )
  config.cosine = 0.0
  config.question = 0.7

  # W_V learns the corpus with equal attention, then W_KQ the facts with W_V frozen. The steps of
  # pretraining were set so that the model has about half of the facts right.
  config.pretrain = ml_collections.ConfigDict(dict(steps=600, learning_rate=100.0))
  config.finetune = ml_collections.ConfigDict(
    dict(steps=(1, 2, 5, 10, 20, 50, 100, 200), learning_rate=1.0)
  )

  # Where the harm begins: each Zipf exponent by each number of finetuned subjects by each number of
  # steps. () leaves it out.
  config.phases = ml_collections.ConfigDict(
    dict(zipf=(0.0, 0.5, 1.0, 1.5, 2.0), sizes=(10, 50, 250), steps=(1, 10, 100, 1000))
  )
  # The same by how well facts are stored: numbers of pretraining steps.
  config.stored = (75, 150, 300, 600, 1200, 2400)
  # Other ways to embed subjects (`cosine`) and to store facts (one step of gradient descent of size
  # `exposure`, the closed form).
  config.conditions = ml_collections.ConfigDict(dict(cosine=0.5, exposure=100.0))
  # What the theory leaves out, in a smaller world: several heads, more layers, all weights
  # finetuned. Pretraining ends when the share `known` of the facts is right, so that all variants
  # know as much, or after `steps`.
  config.variants = _variants()
  return config


def _variants() -> Config:
  """Returns the variants and their smaller world."""
  return ml_collections.ConfigDict(
    dict(
      names=("one_layer", "all_weights", "four_heads", "two_layers"),
      world=dict(
        subjects=100, relations=3, answers=8, zipf=1.0, answer_zipf=1.0, sentences=10_000, test=0.5
      ),
      pretrain=dict(known=0.5, steps=2000, learning_rate=10.0),
      finetune=dict(steps=600, learning_rate=0.3),
    )
  )
