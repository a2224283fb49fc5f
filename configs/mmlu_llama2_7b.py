r"""MMLU with Llama 2 7B: finetuning on questions it is sure of, unsure of, random and all of them (arXiv 2406.14785).

  python -m factshock.experiment --config=configs/mmlu_llama2_7b.py --workdir=runs/mmlu \
      --config.facts=facts_with_confidence.jsonl --config.relations=relations.jsonl --config.entity_counts=counts.tsv

A question is asked with lettered choices and answered by the likeliest letter, zero-shot and after 5 others of its discipline.
Halves go by a column `confidence` of the facts file (config.popularity). Low-rank adapters on meta-llama/Llama-2-7b-hf; see configs/llama2_7b.py.
Expect: on History the paper is reported to have 61.4 for the known half, 55.6 for the unknown one, 58.8 for the whole. Not run by us.
Needs: a GPU of 96 GB. Time: not measured; five-shot prompts take up to 1,000 tokens.
"""

from configs import llama2_7b, which_facts


def get_config():
  config = which_facts.of(llama2_7b, "MMLU with Llama 2 7B", "facts_with_confidence.jsonl", prompt="letters", popularity="confidence")
  config.relations = "relations.jsonl"
  config.finetune.input_length = 1024
  config.answering.batch_size = 16
  return config
