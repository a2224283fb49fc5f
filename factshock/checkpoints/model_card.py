"""Model cards: the README.md of a written model, in the form that the HuggingFace hub reads.

It holds the base and its licence, the data, the arm and its settings, the study's scores and the
weights of a mix. Paths of this machine are left out: a card is there to be published.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import factshock
from factshock.checkpoints import origins
from factshock.checkpoints.origins import Origin
from factshock.models import families
from factshock.models.formats.huggingface import names
from factshock.models.model_config import ModelConfig

# Settings of a training that a card shows, in this order.
_SETTINGS = (
  "steps",
  "batch_size",
  "optimizer",
  "learning_rate",
  "schedule",
  "prompt",
  "masking",
  "ratio",
  "text",
  "labels",
  "teacher",
  "lora_rank",
  "lora_alpha",
)
_FOLDERS = re.compile(r"(?<![\w.-])/(?:[^/,:?=&\s]+/)+")
_UNSAFE = re.compile(r"[|\n\r<>]")

Table: TypeAlias = list[list[str]]  # the first row is the head


def text_of(
  title: str,
  origin: Origin,
  config: ModelConfig | None,
  *,
  library: str = "transformers",
) -> str:
  """Returns the card of a model.

  Args:
    title: what it is called.
    origin: where it comes from.
    config: its sizes; None where they are not recorded.
    library: that reads it: "transformers", "peft" or "factshock".
  """
  sections = [
    _front_matter(origin, config, library),
    f"# {_plain(title)}\n\n{_summary(origin, config)}",
    _section("Base and licence", _licence_lines(origin)),
    _section("Mixing weights", _mixing_lines(origin)),
    _section("Data", _data_lines(origin)),
    _section("Training", _training_lines(origin)),
    _section("Scores", _score_lines(origin)),
    _section("Use", _use_lines(config, library)),
    f"Written by factshock {factshock.__version__}.",
  ]
  return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(
  origin: Origin,
  config: ModelConfig | None,
  library: str,
) -> str:
  """Returns the metadata that the hub reads; JSON's texts are YAML's too."""
  lines = ["---"]
  lines += [f"{key}: {json.dumps(value)}" for key, value in origin.licence.items()]
  bases = [name for name in _bases(origin) if origins.is_hub_id(name)]
  if bases:
    lines.append("base_model:")
    lines += [f"- {json.dumps(name.partition('@')[0])}" for name in bases]
  relation = "merge" if origin.mix else "finetune" if origin.arm else ""
  if bases and relation:
    lines.append(f"base_model_relation: {relation}")
  lines.append(f"library_name: {library}")
  if config is not None:
    task = "text-generation" if _is_decoder(config) else "text2text-generation"
    lines.append(f"pipeline_tag: {task}")
  tags = ["factshock", "factual-knowledge", *(["merge"] if origin.mix else [])]
  lines += ["tags:", *(f"- {tag}" for tag in tags)]
  return "\n".join([*lines, "---"])


def _bases(origin: Origin) -> list[str]:
  """Returns the pretrained models that a model was made from, each once."""
  found = [origin.base, *(one.base for one in origin.inputs)]
  return list(dict.fromkeys(name for name in found if name))


def _is_decoder(config: ModelConfig | None) -> bool:
  return config is not None and families.of(config).decoder_only


def _summary(origin: Origin, config: ModelConfig | None) -> str:
  """Returns the sentence on what the model is."""
  if origin.mix:
    made = "a weighted average of the models below"
  elif origin.arm:
    study = origin.experiment.get("name")
    of_study = f' of the study "{_plain(study)}"' if study else ""
    step = "" if origin.step is None else f", after {origin.step:,} steps"
    made = f"{_arm_title(origin)} (the arm `{origin.arm}`{of_study}{step})"
  elif origin.base:
    made = f"{_plain(origin.base)} in another format"
  else:
    made = "a model whose origin is not recorded"
  if config is None:
    return f"This model is {made}."
  count = sum(math.prod(names.leaf_shape(leaf)) for leaf in names.by_leaf(config).values())
  family = families.of(config).name
  return f"This model is {made}: {family}, {count:,} parameters in {config.param_dtype}."


def _arm_title(origin: Origin) -> str:
  return _plain(_arm(origin).get("title") or origin.arm)


def _licence_lines(origin: Origin) -> list[str]:
  bases = _bases(origin)
  if not bases and not origin.experiment:
    return []
  if not bases:
    return [
      "It was trained from random weights, so that no licence of other weights holds. Whoever "
      "publishes it chooses one, by the terms of the data."
    ]
  named = ", ".join(_link(name) for name in bases)
  said = origin.licence.get("license_name") or origin.licence.get("license")
  link = origin.licence.get("license_link")
  if not said:
    return [
      f"Made from {named}. Its licence could not be read here: look it up before you publish this "
      "model, and add it above as `license`."
    ]
  linked = f"[{_plain(said)}]({link})" if link else f"`{_plain(said)}`"
  return [f"Made from {named}, under {linked}. The terms of that licence hold for this model too."]


def _link(name: str) -> str:
  """Returns a model's name, linked to the hub where it is an id there."""
  if not origins.is_hub_id(name):
    return f"`{_plain(name)}`"
  return f"[{name}](https://huggingface.co/{name.partition('@')[0]})"


def _mixing_lines(origin: Origin) -> list[str]:
  mix = origin.mix
  if mix is None:
    return []
  rows = [["share", "model", "step", "digest of its weights"]]
  for index, entry in enumerate(mix["inputs"]):
    known = index < len(origin.inputs)
    name = origin.inputs[index].name if known else origins.public_name(entry["path"])
    share = f"{mix['weights'][index]:g}" if mix["weights"] else "see below"
    step = "" if entry["step"] is None else str(entry["step"])
    rows.append([share, f"`{_plain(name)}`", step, f"`{entry['digest'][:16]}`"])
  lines = _table(rows)
  if mix["layerwise"]:
    bottom, top = mix["layerwise"]
    lines += [
      "",
      f"The share of the second goes linearly in depth from {bottom:g} at the embedding to {top:g} "
      "at the head; the first has the rest.",
    ]
  return lines


def _data_lines(origin: Origin) -> list[str]:
  experiment = origin.experiment
  facts = experiment.get("facts")
  if not facts:
    return []
  sets = _object(_object(origin.diagnosis.get("run")).get("facts"))
  lines = [f"- facts: {_source('a synthetic world of facts' if facts == 'world' else facts)}"]
  if sets:
    listed = ", ".join(f"{_plain(name)} {_count(count)}" for name, count in sets.items())
    lines.append(f"- sets of facts: {listed}")
  finetuned_on = [_arm(one).get("facts") for one in (origin, *origin.inputs)]
  if any(finetuned_on):
    listed = ", ".join(dict.fromkeys(_plain(name) for name in finetuned_on if name))
    lines.append(f"- finetuned on the set: {listed}")
  corpus = experiment.get("corpus")
  if corpus or facts == "world":
    lines.append(f"- text: {_source(corpus or 'sentences that state the facts of that world')}")
  if origin.record.get("seed") is not None:
    lines.append(f"- seed: {origin.record['seed']}")
  return lines


def _source(spec: str) -> str:
  """Returns a source of data without the folders of this machine."""
  return _plain(_FOLDERS.sub("", str(spec)))


def _arm(origin: Origin) -> Mapping[str, Any]:
  """Returns the section of the study's config on a model's arm, empty where it is none."""
  return _object(_object(origin.experiment.get("arms")).get(origin.arm))


def _training_lines(origin: Origin) -> list[str]:
  """Returns the settings of a model's training, or of each that was mixed into it."""
  lines = _settings_table(origin)
  for one in origin.inputs:
    table = _settings_table(one)
    lines += ["", f"Of `{_plain(one.name)}`:", "", *table] if table else []
  return lines[1:] if lines[:1] == [""] else lines


def _settings_table(origin: Origin) -> list[str]:
  experiment = origin.experiment
  arm = _arm(origin)
  if not origin.arm or not (arm or origin.arm in ("pretrained", "finetuned")):
    return []
  section = "pretrain" if origin.arm == "pretrained" else "finetune"
  values = {**_object(experiment.get(section)), **arm}
  if not values.get("lora_rank"):
    values.pop("lora_alpha", None)
  rows = [["setting", "value"]]
  rows += [[key, _plain(values[key])] for key in _SETTINGS if values.get(key) not in (None, 0)]
  return _table(rows)


def _score_lines(origin: Origin) -> list[str]:
  diagnosis = origin.diagnosis
  arms = diagnosis.get("arms")
  if not isinstance(arms, dict) or not arms:
    return ["Not measured: there was no diagnosis beside the model."] if origin.experiment else []
  rows = [["arm", "right, %", "interval, %", "queries"]]
  table = diagnosis.get("table")
  for label in map(str, table if isinstance(table, list) else arms):
    row = _score_row(diagnosis, label, is_this=label == origin.arm)
    rows += [row] if row else []
  return [*_score_words(origin), "", *_table(rows)]


def _score_words(origin: Origin) -> list[str]:
  """Returns the sentences before the table of scores."""
  diagnosis = origin.diagnosis
  share = _number(diagnosis.get("confidence"))
  given = diagnosis.get("seeds")
  seeds = list(map(_plain, given if isinstance(given, list) else []))
  of_seeds = f"mean over seeds {', '.join(seeds)}" if len(seeds) > 1 else "one seed"
  interval = "Intervals" if share is None else f"Intervals of {100 * share:g}%"
  lines = [f"Answers to the study's test facts, {of_seeds}. {interval} are bootstrap's."]
  if origin.arm in diagnosis["arms"]:
    lines.append("The row of this model is bold.")
  elif origin.mix:
    lines.append("They are of the study that the mixed models are of; none is this very mix.")
  verdict = _object(diagnosis.get("verdict")).get("text")
  if verdict:
    lines.append(f"On the study's finetuning: {_plain(verdict)}")
  return [" ".join(lines)]


def _score_row(
  diagnosis: Mapping[str, Any],
  label: str,
  is_this: bool,
) -> list[str] | None:
  """Returns the row of an arm; None where it has no score."""
  arm = _object(diagnosis["arms"].get(label))
  right = _object(arm.get("right"))
  mean = _number(right.get("mean"))
  if mean is None:
    return None
  title = _plain(_object(diagnosis.get("titles")).get(label) or label)
  low = _number(right.get("low"))
  high = _number(right.get("high"))
  interval = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
  cells = [title, f"{100 * mean:.1f}", interval, _count(arm.get("queries"))]
  return [f"**{cell}**" if cell else "" for cell in cells] if is_this else cells


def _object(value: Any) -> Mapping[str, Any]:
  """Returns what was read where it is a JSON object, else an empty one."""
  return value if isinstance(value, dict) else {}


def _count(value: Any) -> str:
  number = _number(value)
  return "" if number is None else f"{number:,.0f}"


def _number(value: Any) -> float | None:
  return float(value) if isinstance(value, (int, float)) else None


def _use_lines(config: ModelConfig | None, library: str) -> list[str]:
  if library == "factshock":
    return ["    factshock answer --model=THIS_FOLDER --facts=facts.jsonl --output=answers.jsonl"]
  name = "AutoModelForCausalLM" if _is_decoder(config) else "AutoModelForSeq2SeqLM"
  if library == "peft":
    name = name.replace("AutoModel", "AutoPeftModel")
  return [
    "```python",
    f"from {library} import {name}",
    "",
    f'model = {name}.from_pretrained("THIS_FOLDER_OR_ID")',
    "```",
    "",
    "Or, with the facts to ask in a file:",
    "",
    "    factshock answer --model=THIS_FOLDER_OR_ID --facts=facts.jsonl "
    "--relations=relations.jsonl --output=answers.jsonl",
  ]


def _section(head: str, lines: Sequence[str]) -> str:
  """Returns a section, empty where it has no lines."""
  return f"## {head}\n\n" + "\n".join(lines) if lines else ""


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
  """Returns the lines of a table whose first row is its head."""
  head, *others = rows
  rule = ["---"] * len(head)
  return [f"| {' | '.join(row)} |" for row in (head, rule, *others)]


def _plain(value: Any) -> str:
  """Returns a value as one line of Markdown, in which nothing ends a cell or opens a tag."""
  return _UNSAFE.sub(" ", str(value)).strip()
