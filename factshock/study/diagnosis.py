"""What a workdir's predictions show: the diagnosis of all arms, and which of them are compared."""

import functools
import json
import os

from factshock.diagnosis import attention, summary, table
from factshock.facts import counts as counting
from factshock.facts import relations as relation_files
from factshock.facts import schema
from factshock.predictions import accuracy, reading
from factshock.runtime import files
from factshock.study import arms as arm_room
from factshock.study import config as configs


def diagnose(config, workdir, run_facts):
  """Diagnoses all predictions of a workdir and writes diagnosis.json; returns what it wrote."""

  seeds = configs.seeds(config)
  table = {}
  asked = {}  # label -> seed -> label of the files that hold its answers
  curves = {"step": {}, "alpha": {}, "tau": {}}
  selected = {}
  finetuning = {}
  answers_of = functools.cache(lambda seed, name: _answers(workdir, seed, name))
  counts = {seed: counting.read_counts(workdir.counts(seed)) for seed in seeds}
  for name in config.arms:
    kind = arm_room.KINDS[config.arms[name].kind]
    labels = arm_room.points(config, name)
    asked |= {label: dict.fromkeys(seeds, label) for label in labels}
    if kind.varies:
      curves[kind.varies][name] = [
        {kind.varies: arm_room.value(label), "label": label} for label in labels
      ]
      best = {
        seed: _best_point(workdir, labels, seed, config.diagnosis.criterion) for seed in seeds
      }
      chosen = f"{name}_early" if kind.varies == "step" else name
      asked[chosen] = {seed: best[seed]["label"] for seed in seeds}
      selected[chosen] = {
        str(seed): {
          kind.varies: arm_room.value(point["label"]),
          "development": point["development"],
        }
        for seed, point in best.items()
      }
      if kind.varies == "step":
        asked[name] = asked[labels[-1]]
      table |= {name: _title(config, name), chosen: _title(config, chosen, name)}
    else:
      table[name] = _title(config, name)
    trained_on = _finetuning_set(config, name)
    if trained_on:
      seen = {seed: answers_of(seed, trained_on) for seed in seeds}
      finetuning |= {label: seen for label in [*labels, name, f"{name}_early"] if label in asked}
  read = functools.cache(lambda label, seed: _read(workdir, label, seed, "test"))
  arms = {
    label: {seed: read(point, seed) for seed, point in by_seed.items()}
    for label, by_seed in asked.items()
  }
  roles = config.roles.to_dict()
  relations = relation_files.read_relations(workdir.relations(seeds[0]))
  options = summary.Options(
    counts=counts,
    reference=roles["zero_shot"] or None,
    known=roles["ceiling"] or None,
    finetuning={
      seed: answers_of(seed, _finetuning_set(config, roles["finetuned"])) for seed in seeds
    },
    finetuning_by_arm=finetuning,
    pairs=_pairs(config, table),
    entity_arms=[
      label
      for label in table
      if label in (roles["zero_shot"], roles["finetuned"], *roles["remedies"])
    ],
    finetuned=roles["finetuned"] if roles["corrected"] else None,
    corrected=roles["corrected"] or None,
    types={name: row["type"] for name, row in relations.items()},
    criterion=config.diagnosis.criterion,
  )
  found = summary.diagnose(arms, options, _bootstrap(config))
  found |= {
    "curves": {"steps": curves["step"], "alpha": curves["alpha"]},
    "table": list(table),
    "titles": table,
    "groups": {label: _group(config, label) for label in table},
    "selected": selected,
    "relation_labels": {name: row["label"] for name, row in relations.items()},
    "roles": {**roles, "remedies": list(roles["remedies"])},
    "remedies": remedies_of(config),
    "run": _run_record(config, workdir, run_facts),
  }
  found |= _attention(config, workdir, asked, arms, table)
  with files.atomic_write(workdir.diagnosis) as file:
    json.dump(found, file, allow_nan=False)
  return found


def summary_lines(found):
  """The table of arms and the paired comparisons as lines of text; points of curves are left out."""

  listed = set(found["table"])
  return table.lines(
    {
      **found,
      "arms": {label: found["arms"][label] for label in found["table"]},
      "comparisons": [
        row for row in found["comparisons"] if {row["arm"], row["against"]} <= listed
      ],
    }
  )


def _attention(config, workdir, asked, arms, table):
  """{"attention": ...} of the arms with `attention=True` whose files are there; nothing where none is."""

  paths = {}
  missing = []
  for label, by_seed in asked.items():
    if config.arms[_name(config, label)].get("attention"):
      wanted = {seed: workdir.attention(point, seed) for seed, point in by_seed.items()}
      missing += [path for path in wanted.values() if not os.path.exists(path)]
      paths[label] = {seed: path for seed, path in wanted.items() if os.path.exists(path)}
  if missing:
    print(
      f"  attention: left out as they are not there: {', '.join(dict.fromkeys(missing))}",
      flush=True,
    )
  paths = {label: by_seed for label, by_seed in paths.items() if by_seed}
  if not paths:
    return {}
  reference = config.roles.zero_shot if config.roles.zero_shot in paths else None
  pairs = [
    pair
    for pair in _pairs(config, table)
    if pair[1] != reference
    and all(label in paths and label in table for label in pair)
    and paths[pair[0]].keys() & paths[pair[1]].keys()
  ]
  said = {label: arms[label] for label in paths}
  return {
    "attention": attention.diagnose(
      paths,
      reference=reference,
      pairs=pairs,
      predictions=said,
      criterion=config.diagnosis.criterion,
      bootstrap=_bootstrap(config),
    )
  }


def _bootstrap(config):
  """Returns the settings of the bootstrap over queries and seeds."""
  return summary.Bootstrap(config.diagnosis.resamples, config.diagnosis.confidence)


def _name(config, label):
  """The arm behind a label of an arm, of a point of it or of its early stopping."""
  return next(
    name
    for name in (label, label.split("@")[0], label.removesuffix("_early"))
    if name in config.arms
  )


def _finetuning_set(config, name):
  """The finetuning set whose answers an arm has seen: its own, that of the arm it mixes, or None."""
  arm = config.arms[name]
  of = arm.get("of") or next(iter(arm.get("of_arms", ())), None)
  return arm.facts if arm.kind == "finetune" else _finetuning_set(config, of) if of else None


def remedies_of(config):
  """{remedy: the arm it is to mend} of every arm in a group of remedies: finetuning on the same facts without any of an arm's options."""
  plain = {}
  for name, arm in config.arms.items():
    if arm.kind == "finetune" and set(arm) <= {"kind", "facts", "title", "group", "attention"}:
      plain.setdefault(arm.facts, name)
  found = {
    name: plain.get(_finetuning_set(config, name))
    for name in config.arms
    if _group(config, name).startswith("remedy")
  }
  found = {name: mended for name, mended in found.items() if mended}
  return {**{f"{mended}_early": mended for mended in dict.fromkeys(found.values())}, **found}


def _answers(workdir, seed, name):
  facts = schema.read_facts(workdir.fact_set(seed, name))
  return [(fact["relation"], fact["object"]) for fact in facts]


def _read(workdir, label, seed, split):

  return reading.read(workdir.predictions(label, seed, split))


def _best_point(workdir, labels, seed, criterion):
  """The point with the most right answers on development facts, by the criterion; the first of equals."""

  column = accuracy.CRITERIA.index(criterion)
  scores = [
    float(accuracy.scores(_read(workdir, label, seed, "development"))[:, column].mean())
    for label in labels
  ]
  best = max(range(len(labels)), key=lambda i: scores[i])
  return {"label": labels[best], "development": scores[best]}


def _title(config, label, name=None):
  name = name or label
  title = config.arms[name].get("title", name)
  return title if label == name else f"{title}, stopped early"


def _group(config, label):
  name = _name(config, label)
  return config.arms[name].get("group", arm_room.KINDS[config.arms[name].kind].group)


def _pairs(config, table):
  """The paired comparisons that the papers' claims need: remedies, early stopping and halves."""
  roles = config.roles
  pairs = []
  for remedy, mended in {
    **dict.fromkeys(roles.remedies, roles.finetuned),
    **remedies_of(config),
  }.items():
    best = f"{remedy}_early" if f"{remedy}_early" in table else remedy
    pairs += [
      (remedy, mended),
      (best, f"{mended}_early"),
      (remedy, roles.zero_shot),
      (mended, roles.zero_shot),
    ]
  pairs += [
    pair
    for name, arm in config.arms.items()
    if arm.get("text", "whole") != "whole" or arm.get("labels") == "permuted"
    for pair in ((name, roles.finetuned), ("mixture", name))
  ]
  pairs += [("known", "unknown"), ("unknown_relabelled", "unknown")]
  pairs += [
    (roles.finetuned, roles.zero_shot),
    (f"{roles.finetuned}_early", roles.finetuned),
    (f"{roles.finetuned}_early", roles.zero_shot),
    (roles.finetuned, "natural"),
  ]
  if "combined" in table:
    pairs += [("combined", other) for other in ("mixture", "weight_mixing", "output_mixing")]
    pairs.append(("combined", "language_model_only"))
  pairs.append(("mixture", "language_model_only"))
  for suffix in ("", "_early", "_k_shot", "_attention", "_query_key", "_query_key_early"):
    pairs += [
      (f"popular_half{suffix}", f"{other}{suffix}")
      for other in ("unpopular_half", "random_half", "whole")
    ]
  pairs = [
    pair
    for pair in dict.fromkeys(pairs)
    if pair[0] in table and pair[1] in table and pair[0] != pair[1]
  ]
  if roles.finetuned:
    # Of the points of the main curve, so that the report can say whether it rises and falls.
    first, *others = arm_room.points(config, roles.finetuned)
    pairs += [(label, first) for label in others] + [
      (last, label) for last in others[-1:] for label in others[:-1]
    ]
  return pairs


def _run_record(config, workdir, run_facts):
  seed = configs.seeds(config)[0]
  folder = workdir.facts(seed)
  sizes = {
    name.removesuffix(".jsonl"): len(schema.read_facts(os.path.join(folder, name)))
    for name in sorted(os.listdir(folder))
    if name.endswith(".jsonl") and name != "relations.jsonl"
  }
  return {"name": config.name, "config": configs.to_dict(config), "facts": sizes, **run_facts}
