r"""PopQA with Mistral 7B: which facts to finetune on (arXiv 2406.14785).

  factshock experiment --config=popqa_mistral_7b --workdir=runs/popqa \
      --facts='popqa:akariasai/PopQA?split=test' --entity_counts=counts.tsv

Popularity is `s_pop`, the subject's page views a month. Low-rank adapters on
mistralai/Mistral-7B-v0.1; see mistral_7b. Expect: the popular half above the unpopular
one; no number of the paper is known to us. Not run by us. Needs: a GPU of 64 GB. Time: not
measured; 118 TFLOP a step and 42 computed again, 1,000 steps an arm, 5 arms.
"""

from factshock.configs import mistral_7b, which_facts
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  return which_facts.of(mistral_7b, "PopQA with Mistral 7B", "popqa:akariasai/PopQA?split=test")
