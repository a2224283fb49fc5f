r"""T-REx with T5 v1.1 XL: shock at low and high mismatch, and remedies (arXiv 2301.11293).

  factshock experiment --config=trex_t5_v1_1_xl --workdir=runs/trex_xl \
      --facts=trex:data/trex/test.jsonl.gz \
      --entity_counts=counts.tsv

The text that mixture finetuning mixes in (span corruption) is ten files of C4, 3.6 million pages,
tokenised once (--config.corpus says where else to read; tfds:c4/en?split=train[:1%25] does too).
Full finetuning of google/t5-v1_1-xl; see t5_v1_1_xl. Expect: the paper's direction (rare
answers seen in finetuning over-predicted at high mismatch, mended by mixing); its numbers are not
known to us. Not run by us. Needs: a GPU of 48 GB or a TPU v5p-8. Time: not measured; 45 TFLOP a
step, 1,000 steps an arm.
"""

import ml_collections

from factshock.configs import t5_v1_1_xl, trex_t5
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = t5_v1_1_xl.get_config()
  config.name = "Frequency shock of T5 v1.1 XL on T-REx"
  config.facts = "trex:data/trex/test.jsonl.gz"
  config.relations = ""
  config.corpus = "hub:allenai/c4?split=train&data_files=en/c4-train.0000*-of-01024.json.gz"
  config.entity_counts = "counts.tsv"
  config.finetune.prompt = "cloze"
  config.mismatch.update(dict(low=0.2, high=0.65, size=2000))
  config.arms = ml_collections.ConfigDict(trex_t5.arms(), sort_keys=False)
  return config
