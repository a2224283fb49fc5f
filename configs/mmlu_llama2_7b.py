r"""MMLU with Llama 2 7B: finetuning on questions it is sure or unsure of (arXiv 2406.14785).

  factshock experiment --config=mmlu_llama2_7b --workdir=runs/mmlu \
      --facts=facts_with_confidence.jsonl --relations=mmlu:data/mmlu \
      --entity_counts=counts.tsv

A question is asked with lettered choices and answered by the likeliest letter, zero-shot and after
5 others of its discipline. Halves go by a column `confidence` of the facts file
(config.popularity), which the pretrained model gives:

  factshock answer --method=known --prompt=letters --model=meta-llama/Llama-2-7b-hf \
      --facts='mmlu:data/mmlu?split=test' --shots=5 --sets=1 \
      --shot_facts='mmlu:data/mmlu?split=dev' --output=facts_with_confidence.jsonl

Low-rank adapters on meta-llama/Llama-2-7b-hf; see llama2_7b. Expect: on History the
paper is reported to have 61.4 for the known half, 55.6 for the unknown one, 58.8 for the whole. Not
run by us. Needs: a GPU of 96 GB. Time: not measured; five-shot prompts take up to 1,000 tokens.
"""

from factshock.configs import llama2_7b, which_facts
from factshock.types import Config


def get_config() -> Config:
  """Returns the config of the study."""
  config = which_facts.of(
    llama2_7b,
    "MMLU with Llama 2 7B",
    "facts_with_confidence.jsonl",
    prompt="letters",
    popularity="confidence",
  )
  config.relations = "mmlu:cais/mmlu?config=all&split=test"  # only what the disciplines are called
  config.finetune.input_length = 1024
  config.answering.batch_size = 16
  return config
