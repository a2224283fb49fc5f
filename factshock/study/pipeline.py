"""An experiment from config to report: its workdir, its stages, and going on where it was interrupted."""

import functools
import hashlib
import json
import os
import shutil
import time

from factshock import config as configs
from factshock import files, interruption
from factshock.console import UserError, duration
from factshock.facts import counts as counting
from factshock.facts import relations as relations_room
from factshock.facts import documents, schema, sources, splits
from factshock.study import answers, checks, claims, provenance, training, weights
from factshock.study import arms as arm_room
from factshock.study import study as studies

RESULTS, PREPARED = ("checkpoints", "predictions"), ("facts", "tokenizer")
_DIGESTED = 1 << 30
_WAIT = 2.0  # seconds between two looks at what other processes do
MAY_CHANGE = ("corpus_cache", "seeds", "diagnosis", "roles", "name", "cpu_devices", "mesh", "parallel")  # what a rerun in the same workdir may change


def run(config, workdir):
  """Runs every arm of every seed that is not done yet, then writes diagnosis.json and report.html.

  Returns:
    The diagnosis.

  Raises:
    UserError: a config that cannot be used, or a workdir of another experiment.
    interruption.Interrupted: SIGTERM or Ctrl-C came; what was done is kept.
  """
  from factshock.report import page
  from factshock.training import host, partitioning

  checks.check(config)
  claim_workdir(config, workdir)
  host.keep_freed_memory()
  partitioning.use_cpu_devices(config.cpu_devices)
  mesh = partitioning.make_mesh(config.mesh.to_dict())
  began, start = time.monotonic(), provenance.record()
  provenance.append(workdir, start)
  stages = [(seed, name) for seed in configs.seeds(config) for name in [arm_room.PRETRAINED, *order(config)]]
  clock = Clock(config, [stage for stage in stages if not done(config, workdir, *stage)])
  print(f"{len(stages)} stages, {len(stages) - len(clock.left)} of them done before; "
        f"{len(mesh.devices.flat)} {mesh.devices.flat[0].platform} device(s)", flush=True)
  with interruption.heeded():
    run_stages(config, workdir, mesh, clock)
  print("diagnosis and report", flush=True)
  found = diagnose(config, workdir, {**start, "seconds": round(time.monotonic() - began, 1),
                                     "stages_run": len(stages) - len(clock.left)})
  page.write_report(found, workdir)
  return found


def order(config):
  """The arms in an order in which those that an arm needs come before it."""
  waiting, ordered = list(config.arms), []
  while waiting:
    ready = [name for name in waiting if all(need in ordered for need in arm_room.needs(config, name))]
    if not ready:
      raise UserError(f"config.arms: {', '.join(waiting)} need one another in a circle")
    ordered.append(ready[0])
    waiting.remove(ready[0])
  return ordered


def run_stages(config, workdir, mesh, clock):
  """Runs the stages that are not done yet, each under a claim; several processes, or machines with one folder, share them."""
  study_of = functools.lru_cache(maxsize=1)(functools.partial(_prepared, config, workdir, mesh))
  waited = False
  while clock.left:
    ran = False
    for seed, name in list(clock.left):
      interruption.check()
      if done(config, workdir, seed, name) and not claims.held(_claim_path(workdir, seed, name)):
        clock.forget(seed, name)  # by another process
      elif ready(config, workdir, seed, name):
        ran |= _run_stage(config, workdir, seed, name, study_of, clock)
    if clock.left and not ran:
      if not waited:
        print(f"waiting for {len(clock.left)} stages that other processes are at, or that need these", flush=True)
      waited = True
      time.sleep(_WAIT)


def _run_stage(config, workdir, seed, name, study_of, clock):
  """Runs a stage where nobody else is at it; whether it was run."""
  with claims.claim(_claim_path(workdir, seed, name)) as ours:
    if not ours or done(config, workdir, seed, name):
      return False
    study = study_of(seed)
    print(f"seed {seed}: {name} ({clock.say()})", flush=True)
    if name == arm_room.PRETRAINED:
      weights.pretrained(study)
    else:
      arm_room.run(study, name)
  clock.finish(seed, name)
  return True


def _claim_path(workdir, seed, name):
  return os.path.join(workdir, "claims", f"{seed}.{name}")


def _prepared(config, workdir, mesh, seed):
  """The Study of a seed, said; one process at a time, as all write the same files."""
  with claims.wait(_claim_path(workdir, seed, "preparing"), say=f"seed {seed}: another process prepares facts and text"):
    print(f"seed {seed}: preparing facts and text", flush=True)
    study = studies.prepare(config, workdir, seed, mesh)
  for name, facts in study.sets.items():
    print("  " + splits.describe(name, facts), flush=True)
    if name not in ("pool", *answers.SPLITS):
      print("  " + splits.describe_against(facts, study.sets["test"]), flush=True)
  return study


def ready(config, workdir, seed, name):
  """Whether all that a stage needs is there, and nobody is at it any more."""
  needed = [] if name == arm_room.PRETRAINED else [arm_room.PRETRAINED, *arm_room.needs(config, name)]
  return all(done(config, workdir, seed, need) and not claims.held(_claim_path(workdir, seed, need)) for need in needed)


def done(config, workdir, seed, name):
  """Whether a stage's results are all there: its answers, and its weights where arms that are not done need them."""
  if name == arm_room.PRETRAINED:
    return training.starts_ready(config) or _trained(config.pretrain.steps, workdir, seed, name)
  if not all(answers.answered(workdir, label, seed) for label in arm_room.points(config, name)):
    return False
  # Answers are written before the last checkpoint is.
  return config.arms[name].kind != "finetune" or _trained(arm_room.settings(config, name)["steps"], workdir, seed, name) or all(
      done(config, workdir, seed, other) for other in config.arms if name in arm_room.needs(config, other))


def _trained(steps, workdir, seed, name):
  from factshock.training import checkpoints

  return checkpoints.latest_step(training.checkpoint_folder(workdir, name, seed)) == steps


class Clock:
  """Time left of the whole experiment, from the work each stage has and the time it took so far."""

  def __init__(self, config, stages):
    self.config, self.left, self.finished = config, list(stages), 0.0
    self.began = time.monotonic()

  def work(self, name):
    """Examples a stage reads: trained ones count three times those that are only asked."""
    if name == arm_room.PRETRAINED:
      return 3.0 * self.config.pretrain.steps * self.config.pretrain.batch_size
    arm, asked = self.config.arms[name], 3000.0 * len(arm_room.points(self.config, name))
    if arm.kind != "finetune":
      return asked
    section = arm_room.settings(self.config, name)
    return asked + 3.0 * section["steps"] * section["batch_size"] * (1 + arm.get("ratio", 0))

  def finish(self, seed, name):
    self.forget(seed, name)
    self.finished += self.work(name)

  def forget(self, seed, name):
    """Takes out a stage that this process need not run."""
    self.left.remove((seed, name))

  def say(self):
    elapsed = time.monotonic() - self.began
    left = sum(self.work(name) for _, name in self.left)
    eta = f", about {duration(elapsed * left / self.finished)} left" if self.finished else ""
    return f"{len(self.left)} stages to go, {duration(elapsed)} elapsed{eta}"


def claim_workdir(config, workdir):
  """Stores the config in a new workdir, or checks that an old one is of the same experiment.

  Seeds, arms and what only concerns the report may be added on a rerun.

  Raises:
    UserError: the workdir is of another experiment (naming what differs), or holds other files.
  """
  path, wanted = os.path.join(workdir, "config.json"), configs.to_dict(config) | input_digests(config)
  if not os.path.exists(path):
    if os.path.isdir(workdir) and os.listdir(workdir):
      raise UserError(f"{workdir}: not empty, and no workdir of an experiment; choose another --workdir")
  else:
    differing = differences(_read_json(path), wanted)
    if differing and not any(os.path.exists(os.path.join(workdir, name)) for name in RESULTS):
      # An attempt that ended before any training, with a mistake in its flags, say: start over.
      for name in PREPARED:
        shutil.rmtree(os.path.join(workdir, name), ignore_errors=True)
    elif differing:
      raise UserError(f"{workdir}: is the workdir of another experiment; choose another --workdir or remove it. "
                      "What differs (there, here):\n  " + "\n  ".join(differing))
  with files.writing(path) as file:
    json.dump(wanted, file, indent=1)


def input_digests(config):
  """{"inputs": SHA-256 of the files that config.facts, relations and corpus name}: changed files are noticed.

  Of a file larger than _DIGESTED bytes the size counts, and not what it holds.
  """
  if config.facts == "world":
    return {}
  digests = {}
  for name in ("facts", "relations", "corpus", "entity_counts"):
    digests[name] = hashlib.sha256()
    for spec in documents.corpora(config[name]) if name == "corpus" else [config[name]]:
      for path in sources.files_of(spec):
        _add_to_digest(digests[name], path)
  return {"inputs": {name: digest.hexdigest() for name, digest in digests.items()}}


def _add_to_digest(digest, path):
  if os.path.getsize(path) > _DIGESTED:
    digest.update(f"{os.path.getsize(path)} bytes".encode())
    return
  with open(path, "rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)


def differences(old, new, where="config"):
  """Lines that name each value in which two configs differ, but for what a rerun may change."""
  found = []
  for key in sorted(set(old) | set(new)):
    path = f"{where}.{key}"
    if (where == "config" and key in MAY_CHANGE) or (where == "config.arms" and not (key in old and key in new)):
      continue
    if where.startswith("config.arms.") and key in ("title", "group"):
      continue
    a, b = old.get(key, "missing"), new.get(key, "missing")
    if isinstance(a, dict) and isinstance(b, dict):
      found += differences(a, b, path)
    elif a != b:
      found.append(f"{path}: {a!r}, {b!r}")
  return found


def _read_json(path):
  try:
    with files.open_text(path) as file:
      return json.load(file)
  except ValueError as error:
    raise UserError(f"{path}: expected JSON, got a broken file ({error})") from error


def diagnose(config, workdir, run_facts):
  """Diagnoses all predictions of a workdir and writes diagnosis.json; returns what it wrote."""
  from factshock.diagnosis import summary

  seeds, table = configs.seeds(config), {}
  arms, curves, selected, finetuning = {}, {"step": {}, "alpha": {}, "tau": {}}, {}, {}
  answers_of = functools.cache(lambda seed, name: _answers(workdir, seed, name))
  counts = {seed: counting.read_counts(studies.facts_path(workdir, seed, "counts.tsv")) for seed in seeds}
  for name in config.arms:
    kind, labels = arm_room.KINDS[config.arms[name].kind], arm_room.points(config, name)
    arms |= {label: _read(workdir, label, seeds, "test") for label in labels}
    if kind.varies:
      curves[kind.varies][name] = [{kind.varies: arm_room.value(label), "label": label} for label in labels]
      best = {seed: _best_point(workdir, labels, seed, config.diagnosis.criterion) for seed in seeds}
      chosen = f"{name}_early" if kind.varies == "step" else name
      arms[chosen] = {seed: arms[best[seed]["label"]][seed] for seed in seeds}
      selected[chosen] = {str(seed): {kind.varies: arm_room.value(point["label"]), "development": point["development"]}
                          for seed, point in best.items()}
      if kind.varies == "step":
        arms[name] = arms[labels[-1]]
      table |= {name: _title(config, name), chosen: _title(config, chosen, name)}
    else:
      table[name] = _title(config, name)
    trained_on = _finetuning_set(config, name)
    if trained_on:
      seen = {seed: answers_of(seed, trained_on) for seed in seeds}
      finetuning |= {label: seen for label in [*labels, name, f"{name}_early"] if label in arms}
  roles = config.roles.to_dict()
  relations = relations_room.read_relations(studies.facts_path(workdir, seeds[0], "relations.jsonl"))
  found = summary.diagnose(
      arms, counts=counts, reference=roles["zero_shot"] or None, known=roles["ceiling"] or None,
      finetuning={seed: answers_of(seed, _finetuning_set(config, roles["finetuned"])) for seed in seeds},
      finetuning_by_arm=finetuning, pairs=_pairs(config, table),
      entity_arms=[label for label in table if label in (roles["zero_shot"], roles["finetuned"], *roles["remedies"])],
      finetuned=roles["finetuned"] if roles["corrected"] else None, corrected=roles["corrected"] or None,
      types={name: row["type"] for name, row in relations.items()}, **config.diagnosis.to_dict())
  found |= {"curves": {"steps": curves["step"], "alpha": curves["alpha"]}, "table": list(table), "titles": table,
            "groups": {label: _group(config, label) for label in table}, "selected": selected,
            "relation_labels": {name: row["label"] for name, row in relations.items()},
            "roles": {**roles, "remedies": list(roles["remedies"])}, "remedies": remedies_of(config), "run": _run_record(config, workdir, run_facts)}
  with files.writing(os.path.join(workdir, "diagnosis.json")) as file:
    json.dump(found, file, allow_nan=False)
  return found


def summary_lines(found):
  """The table of arms and the paired comparisons as lines of text; points of curves are left out."""
  from factshock.diagnosis import table

  listed = set(found["table"])
  return table.lines({
      **found, "arms": {label: found["arms"][label] for label in found["table"]},
      "comparisons": [row for row in found["comparisons"] if {row["arm"], row["against"]} <= listed]})


def _finetuning_set(config, name):
  """The finetuning set whose answers an arm has seen: its own, that of the arm it mixes, or None."""
  arm = config.arms[name]
  of = arm.get("of") or next(iter(arm.get("of_arms", ())), None)
  return arm.facts if arm.kind == "finetune" else _finetuning_set(config, of) if of else None


def remedies_of(config):
  """{remedy: the arm it is to mend} of every arm in a group of remedies: finetuning on the same facts without any of an arm's options."""
  plain = {}
  for name, arm in config.arms.items():
    if arm.kind == "finetune" and set(arm) <= {"kind", "facts", "title", "group"}:
      plain.setdefault(arm.facts, name)
  found = {name: plain.get(_finetuning_set(config, name)) for name in config.arms if _group(config, name).startswith("remedy")}
  found = {name: mended for name, mended in found.items() if mended}
  return {**{f"{mended}_early": mended for mended in dict.fromkeys(found.values())}, **found}


def _answers(workdir, seed, name):
  facts = schema.read_facts(studies.facts_path(workdir, seed, f"{name}.jsonl"))
  return [(fact["relation"], fact["object"]) for fact in facts]


def _read(workdir, label, seeds, split):
  from factshock.diagnosis import predictions

  return {seed: predictions.read(answers.predictions_path(workdir, label, seed, split)) for seed in seeds}


def _best_point(workdir, labels, seed, criterion):
  """The point with the most right answers on development facts, by the criterion; the first of equals."""
  from factshock.diagnosis import accuracy

  column = accuracy.CRITERIA.index(criterion)
  scores = [float(accuracy.scores(_read(workdir, label, [seed], "development")[seed])[:, column].mean()) for label in labels]
  best = max(range(len(labels)), key=lambda i: scores[i])
  return {"label": labels[best], "development": scores[best]}


def _title(config, label, name=None):
  name = name or label
  title = config.arms[name].get("title", name)
  return title if label == name else f"{title}, stopped early"


def _group(config, label):
  name = label if label in config.arms else label.removesuffix("_early")
  return config.arms[name].get("group", arm_room.KINDS[config.arms[name].kind].group)


def _pairs(config, table):
  """The paired comparisons that the papers' claims need: remedies, early stopping and halves."""
  roles, pairs = config.roles, []
  for remedy, mended in {**{name: roles.finetuned for name in roles.remedies}, **remedies_of(config)}.items():
    best = f"{remedy}_early" if f"{remedy}_early" in table else remedy
    pairs += [(remedy, mended), (best, f"{mended}_early"), (remedy, roles.zero_shot), (mended, roles.zero_shot)]
  pairs += [pair for name, arm in config.arms.items() if arm.get("text", "whole") != "whole" or arm.get("labels") == "permuted"
            for pair in ((name, roles.finetuned), ("mixture", name))]
  pairs += [("known", "unknown"), ("unknown_relabelled", "unknown")]
  pairs += [(roles.finetuned, roles.zero_shot), (f"{roles.finetuned}_early", roles.finetuned),
            (f"{roles.finetuned}_early", roles.zero_shot), (roles.finetuned, "natural")]
  if "combined" in table:
    pairs += [("combined", other) for other in ("mixture", "weight_mixing", "output_mixing")]
    pairs.append(("combined", "language_model_only"))
  pairs.append(("mixture", "language_model_only"))
  for suffix in ("", "_early", "_k_shot"):
    pairs += [(f"popular_half{suffix}", f"{other}{suffix}") for other in ("unpopular_half", "random_half", "whole")]
  pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] in table and pair[1] in table and pair[0] != pair[1]]
  if roles.finetuned:
    # Of the points of the main curve, so that the report can say whether it rises and falls.
    first, *others = arm_room.points(config, roles.finetuned)
    pairs += [(label, first) for label in others] + [(last, label) for last in others[-1:] for label in others[:-1]]
  return pairs


def _run_record(config, workdir, run_facts):
  seed = configs.seeds(config)[0]
  folder = os.path.join(workdir, "facts", str(seed))
  sizes = {name.removesuffix(".jsonl"): len(schema.read_facts(os.path.join(folder, name)))
           for name in sorted(os.listdir(folder)) if name.endswith(".jsonl") and name != "relations.jsonl"}
  return {"name": config.name, "config": configs.to_dict(config), "facts": sizes, **run_facts}
