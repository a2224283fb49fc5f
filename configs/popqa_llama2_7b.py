r"""PopQA with Llama 2 7B: which facts to finetune on (arXiv 2406.14785).

  factshock experiment --config=popqa_llama2_7b --workdir=runs/popqa \
      --facts='popqa:akariasai/PopQA?split=test' --entity_counts=counts.tsv

Popularity is `s_pop`, the subject's page views a month. Low-rank adapters on
meta-llama/Llama-2-7b-hf; see llama2_7b. Expect: the paper is reported to have 20.1
zero-shot, 44.5 for the popular and 37.4 for the unpopular half (PopQA-Controlled). Not run by us.
Needs: a GPU of 48 GB. Time: not measured; 109 TFLOP a step and 42 computed again, 1,000 steps an
arm, 5 arms.
"""

from factshock.configs import llama2_7b, which_facts
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  return which_facts.of(llama2_7b, "PopQA with Llama 2 7B", "popqa:akariasai/PopQA?split=test")
