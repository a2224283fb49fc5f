r"""EntityQuestions with Llama 2 7B: which facts to finetune on (arXiv 2406.14785).

  factshock experiment --config=entityquestions_llama2_7b \
      --workdir=runs/entityquestions \
      --facts=entityquestions:data/entityquestions.jsonl --entity_counts=counts.tsv

EntityQuestions has no popularity: it is taken from counts.tsv, how often a text names the subject.
Low-rank adapters on meta-llama/Llama-2-7b-hf; see llama2_7b. Expect: the popular half 5
to 10 points above the unpopular one (the paper's claim). Not run by us. Needs: a GPU of 48 GB.
Time: not measured; 109 TFLOP a step and 42 computed again, 1,000 steps an arm, 5 arms.
"""

from factshock.configs import llama2_7b, which_facts
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  return which_facts.of(
    llama2_7b, "EntityQuestions with Llama 2 7B", "entityquestions:data/entityquestions.jsonl"
  )
