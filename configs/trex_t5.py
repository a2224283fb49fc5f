r"""Frequency shock on T-REx facts, with a small T5 pretrained on Wikipedia sentences.

  factshock experiment --config=trex_t5 --workdir=runs/trex --config.seeds=3 \
      --facts='trex:data/trex/test.jsonl.gz?relations=P176,P178,P449,P495,P27,P20' \
      --corpus=data/trex_wikipedia/trex_evidence_sentences.tsv.gz
  factshock experiment --config=trex_t5:gpu ...     # all 28 relations, a
  T5-small shape

Facts: LAMA's T-REx, with its templates in relations.jsonl beside the file. Text: sentences that
state the facts, a column `sentence`. The model reads windows of 16 words that name a fact's subject
and object and guesses the masked one (salient spans), as plain span corruption learns nothing from
so little text. The finetuning sets are of one size: high_mismatch has the answers of every other
rank, evenly, low_mismatch those of the test facts. What it reproduces: arXiv 2301.11293, figure 1
and the remedies, and the halves of arXiv 2406.14785, at 2 million parameters. What the CPU size can
show: shock on real entities and what mends it. What it cannot: what a model of real size knows, or
facts told in text that does not name both ends in one window. Expect: exact match .26 zero-shot,
.21 at high and .32 at low mismatch, .27 to .29 with the remedies; docs/measurements has all, and
what changes without answers that stand in the subject's name (--config.drop_named_answers=True).
Time: 2 CPU cores, about 17 minutes a seed; `gpu` is for one GPU and was not run.
"""

import ml_collections

from factshock.configs import own_facts
from factshock.configs.demo import Arms
from factshock.runtime.errors import UserError
from factshock.types import Config

RELATIONS = "P176,P178,P449,P495,P27,P20"


def get_config(size: str = "cpu") -> Config:
  """Returns the config of the study."""
  if size not in ("cpu", "gpu"):
    raise UserError(f"--config=trex_t5: expected :cpu or :gpu, got :{size}")
  config = own_facts.get_config("cloze")
  config.name = "Frequency shock on T-REx facts and Wikipedia sentences"
  config.facts = "trex:data/trex/test.jsonl.gz" + (
    f"?relations={RELATIONS}" if size == "cpu" else ""
  )
  config.relations = ""  # those beside the facts
  config.corpus = "data/trex_wikipedia/trex_evidence_sentences.tsv.gz"
  config.mismatch.update(dict(low=0.2, high=0.65, size=400))
  config.pretrain.update(dict(steps=2000, optimizer="adamw", learning_rate=2e-3))
  config.finetune.eval_steps = (0, 25, 200)
  config.mixing.alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
  config.arms = ml_collections.ConfigDict(arms(), sort_keys=False)
  if size == "gpu":
    config.model.update(
      dict(
        d_model=512,
        d_ff=1024,
        num_heads=6,
        d_kv=64,
        encoder_layers=8,
        decoder_layers=8,
        dtype="bfloat16",
        unroll=False,
      )
    )
    config.tokenizer.size = 16000
    config.pretrain.update(dict(steps=8000, batch_size=256, learning_rate=1e-3))
    config.mismatch.size = 2500
  return config


def arms() -> Arms:
  """Returns the arms of own_facts, at high and low mismatch for the balanced and natural sets."""
  of_set = {"balanced": "high_mismatch", "natural": "low_mismatch"}
  by_name = own_facts.arms("cloze")
  for arm in by_name.values():
    if arm.get("facts") in of_set:
      arm["facts"] = of_set[arm["facts"]]
  by_name["finetune"]["title"] = "Finetuning, high mismatch"
  by_name["natural"]["title"] = "Finetuning, low mismatch"
  by_name["naive_bayes"] = dict(kind="naive_bayes", title="Naive Bayes on the subject's words")
  return by_name
