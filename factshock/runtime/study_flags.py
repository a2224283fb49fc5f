"""The flags --model, --facts, --relations, --corpus, --entity_counts of the verbs with a config."""

from absl import flags

from factshock.runtime.errors import UserError

flags.disclaim_key_flags()  # --help of a verb lists the flags among its own

# The key of the config that each flag sets.
_KEYS = {
  "model": "start_from",
  "facts": "facts",
  "relations": "relations",
  "corpus": "corpus",
  "entity_counts": "entity_counts",
}


def define() -> None:
  """Defines the flags."""
  flags.DEFINE_string(
    "model",
    None,
    "Model to start from, in place of config.start_from: a HuggingFace model, a .gguf file or a "
    "checkpoint. Without --config it means --config=pretrained:MODEL.",
  )
  flags.DEFINE_string(
    "facts",
    None,
    "Facts to finetune on, in place of config.facts: .jsonl, .csv, .tsv (.gz too), .parquet, or a "
    "data set as popqa:PATH, which brings its relations.",
  )
  flags.DEFINE_string("relations", None, "Relations file, in place of config.relations.")
  flags.DEFINE_string(
    "corpus", None, "Text of the pretraining task, in place of config.corpus: as of count."
  )
  flags.DEFINE_string(
    "entity_counts",
    None,
    "How often a text names each entity, in place of config.entity_counts: .tsv, as of count.",
  )


def given() -> dict[str, str]:
  """Returns what the flags that are given say, by name.

  Raises:
    UserError: a flag of the config says the same.
  """
  values = flags.FLAGS
  found = {}
  for name, key in _KEYS.items():
    if values[name].value is None:
      continue
    other = f"config.{key}"
    if other in values and values[other].present:
      raise UserError(f"--{name} and --{other} are the same; give one")
    found[name] = values[name].value
  return found
