"""Asking a checkpoint for a facts file: from files to a predictions file."""

import json
import os
import re
from typing import NamedTuple

import jax

from factshock.answering import choices, decoding, knowledge, pub_quiz, ranking
from factshock.checkpoints import store
from factshock.data import pretrained_tokenizers, prompts, tokenizers
from factshock.devices import host, partitioning
from factshock.facts import schema, sources
from factshock.models import families, lora
from factshock.models.formats import huggingface
from factshock.predictions import writing
from factshock.runtime.console import Progress
from factshock.runtime.errors import UserError


class Asked(NamedTuple):
  """A model that can be asked, and what its folder says of it: the config of its experiment and the like."""

  params: dict
  model: object  # T5Config or LlamaConfig
  tokenizer: object
  config: dict  # sections `answering` and `finetune` of its experiment, or DEFAULTS
  home: dict  # the checkpoint's record: arm, seed, workdir
  mesh: object = None  # of the devices: as a config that was given says, else all weights on each


# One device where there is no accelerator: each device of a host holds a copy of the weights.
DEFAULTS = {
  "answering": {"batch_size": 64, "top": 10},
  "finetune": {"prompt": "question"},
  "cpu_devices": 1,
}


def ask(
  config,
  checkpoint,
  facts,
  output,
  *,
  mode="rank",
  shots=0,
  shot_facts=None,
  candidates=None,
  prompt=None,
  max_tokens=16,
  tokenizer=None,
  relations=None,
  arm=None,
  decoding_options=None,
  pub_quiz=None,
):
  """Writes the predictions of a model on a facts file; returns the rows.

  Args:
    config: the experiment's config, or None: that of the checkpoint's own record, or DEFAULTS.
    checkpoint: path of a checkpoint, or a HuggingFace model: a folder or a hub id.
    facts, output, candidates, shot_facts, tokenizer, relations: paths; see factshock/answer.py.
    mode: "rank", "generate", or of facts with choices "letters" or "choices". prompt: "cloze" or "question"; None is config.finetune.prompt.
    decoding_options: how to generate, as arguments of decoding.generate (method, beams, temperature, seed); greedily.
    pub_quiz: folder to write the ranking of all candidates to as well, as results of lm-pub-quiz (pub_quiz.py).

  Raises:
    UserError: files that are missing, malformed, or do not fit each other or the config's model.
  """

  asked = open_model(checkpoint, config, tokenizer)
  rows, table = facts_and_relations(asked, checkpoint, facts, relations)
  mesh = asked.mesh
  batch_size = asked.config["answering"]["batch_size"]
  labels = dict(
    arm=arm or asked.home.get("arm") or "answers",
    seed=asked.home.get("seed", 0),
    split=_stem(facts),
  )
  form = mode if mode in prompts.CHOICE_PROMPTS else prompt or asked.config["finetune"]["prompt"]
  texts = prompts.prompt_texts(
    rows, table, form, asked.tokenizer.sentinels == 0, shots, pool_of(shots, shot_facts)
  )
  if mode in prompts.CHOICE_PROMPTS:
    answers = choices.rows(
      asked.params,
      asked.model,
      asked.tokenizer,
      rows,
      texts,
      letters=mode == "letters",
      batch_size=batch_size,
      mesh=mesh,
      **labels,
    )
  elif mode == "generate":
    said, scores = decoding.generate(
      asked.params,
      asked.model,
      asked.tokenizer,
      texts,
      max_length=max_tokens,
      batch_size=batch_size,
      mesh=mesh,
      **(decoding_options or {}),
    )
    answers = writing.text_rows(rows, said, scores, **labels)
  else:
    options = writing.candidates_of(
      sources.read_facts(candidates) if candidates else rows,
      dict.fromkeys(fact["relation"] for fact in rows),
    )
    scores = ranking.rank(
      asked.params,
      asked.model,
      asked.tokenizer,
      texts,
      [fact["relation"] for fact in rows],
      options,
      batch_size=batch_size,
      mesh=mesh,
    )
    answers = writing.prediction_rows(
      rows, options, scores, top=asked.config["answering"]["top"] or None, **labels
    )
    if pub_quiz:
      _write_pub_quiz(
        pub_quiz,
        writing.prediction_rows(rows, options, scores, top=None, **labels),
        checkpoint,
        form,
        table,
      )
  writing.write_predictions(output, answers)
  return answers


def _write_pub_quiz(folder, rows, checkpoint, form, table):

  asked = {row["relation"]: table[row["relation"]] for row in rows}
  templates = {
    name: relation["statements"][0]
    if form == "cloze"
    else f"{(relation.get('questions') or ['[X]'])[0]} [Y]"
    for name, relation in asked.items()
  }
  pub_quiz.write(folder, rows, model=checkpoint, templates=templates)


def assess(
  config,
  checkpoint,
  facts,
  output,
  *,
  shots=4,
  shot_facts=None,
  prompt=None,
  max_tokens=16,
  sets=10,
  samples=16,
  tokenizer=None,
  relations=None,
):
  """Writes the facts with what the model knows of each (`knowledge.columns`); returns the rows. See `ask`.

  Args:
    shots, sets, samples: shots of a prompt, sets of shots and samples a set; the paper's 4, 10 and 16.
    prompt: one of prompts.PROMPTS; of facts with choices ("letters", "choices") their likelihoods are taken and nothing is sampled.
  """

  asked = open_model(checkpoint, config, tokenizer)
  rows, table = facts_and_relations(asked, checkpoint, facts, relations)
  form = prompt or asked.config["finetune"]["prompt"]
  pool = pool_of(shots, shot_facts)
  model = (asked.params, asked.model, asked.tokenizer)
  size = dict(batch_size=asked.config["answering"]["batch_size"], mesh=asked.mesh)

  def texts_of(number):
    return prompts.prompt_texts(
      rows, table, form, asked.tokenizer.sentinels == 0, shots, pool, number
    )

  def generate(texts, **sampling):
    method = {"method": "sample", **sampling} if sampling else {}
    return decoding.generate(*model, texts, max_length=max_tokens, **size, **method)[0]

  def score(number):
    found = choices.of_facts(*model, rows, texts_of(number), letters=form == "letters", **size)
    progress.update(number + 1)
    return found

  if form in prompts.CHOICE_PROMPTS:
    progress = Progress("asking", sets)
    known = knowledge.choice_columns(rows, [score(number) for number in range(sets)])
  else:
    known = knowledge.assess(
      generate,
      texts_of,
      rows,
      sets=sets,
      samples=samples,
      progress=Progress("asking", sets * (1 + samples)),
    )
  schema.write_facts(output, known)
  return known


def facts_and_relations(asked, checkpoint, facts, relations):
  """(facts, relations): those of the file given, else of the data set, else of the checkpoint's workdir."""

  return sources.read_with_relations(
    facts, relations, lambda: _from_workdir(asked.home, checkpoint, "relations")
  )


def open_model(checkpoint, config=None, tokenizer=None):
  """The model of a checkpoint, or of a HuggingFace folder or hub id, as Asked.

  Raises:
    UserError: nothing there, or something that does not fit the config or the tokenizer.
  """

  host.use_compilation_cache()
  own = is_checkpoint(checkpoint)
  record = _record(checkpoint) if own else {}
  given = config.to_dict() if config is not None else {}
  config = given or record.get("experiment") or DEFAULTS
  partitioning.use_cpu_devices(config["cpu_devices"])
  mesh = partitioning.make_mesh(given.get("mesh"))
  return (_open_checkpoint if own else _open_pretrained)(
    checkpoint, config, record, tokenizer
  )._replace(mesh=mesh)


def is_checkpoint(path):
  """Whether a path is meant as a checkpoint of ours; else it is a HuggingFace folder or hub id ("org/name", "org/name@revision")."""
  if os.path.isdir(path):
    return not any(
      os.path.exists(os.path.join(path, name)) for name in ("config.json", "adapter_config.json")
    )
  return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", path)


def _record(checkpoint):

  return store.read_manifest(checkpoint)["config"] or {}


def _open_checkpoint(checkpoint, config, record, tokenizer):

  tokenizer = tokenizers.load(tokenizer or _from_workdir(record, checkpoint, "tokenizer"))
  model = families.from_section(config["model"], tokenizer.size)
  if "lora" in record:
    return Asked(_with_adapters(checkpoint, record), model, tokenizer, config, record)
  like = jax.eval_shape(lambda: families.of(model).init(model, jax.random.key(0)))
  return Asked(
    store.restore(checkpoint, like={"params": like})["params"], model, tokenizer, config, record
  )


def _with_adapters(checkpoint, record):
  """The weights that a checkpoint's adapters stand on, with the adapters attached."""

  base = record["lora"]["base"]
  made = record["experiment"]["model"]
  params = (
    store.restore_params(base)
    if is_checkpoint(base)
    else huggingface.load(base, param_dtype=made["param_dtype"])[0]
  )
  return lora.attach(
    params, store.restore_params(checkpoint), record["lora"]["alpha"] / record["lora"]["rank"]
  )


def _open_pretrained(source, config, record, tokenizer):

  model = huggingface.config_of(source)  # first of all, whether there is a model that can be read
  tokenizer = pretrained_tokenizers.load(tokenizer or source)
  pretrained_tokenizers.check_fits(tokenizer, model.vocab_size, source)
  params, model = huggingface.load(source)
  return Asked(
    params, model, tokenizer, config, {"arm": os.path.basename(os.path.normpath(source)), **record}
  )


def pool_of(shots, shot_facts):
  """The facts of a file to draw shots from. Raises: UserError where there is no file and shots are wanted."""

  if shots and not shot_facts:
    raise UserError(f"--shots={shots} needs --shot_facts=FILE, the facts to draw them from")
  return sources.read_facts(shot_facts) if shots else []


def relations_path(checkpoint):
  """The relations file of a checkpoint's workdir. Raises: UserError where there is none, as of a HuggingFace model."""
  if not is_checkpoint(checkpoint):
    raise UserError(f"{checkpoint}: brings no templates of relations; say --relations=PATH")
  return _from_workdir(_record(checkpoint), checkpoint, "relations")


def identity_of(checkpoint):
  """{"checkpoint": digest of the weights or None, "mixing_weights": list or None}, as its folder tells them."""

  own = is_checkpoint(checkpoint)
  folder = store.step_folder(checkpoint) if own else checkpoint
  path = os.path.join(folder, "mix.json")
  mixed = {}
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      mixed = json.load(file)
  digest = mixed.get("digest")
  if own and not digest:
    leaves = store.read_manifest(folder)["leaves"]
    digest = store.tree_digest(
      {name: leaf for name, leaf in leaves.items() if name.startswith("params/")}
    )
  return {"checkpoint": digest, "mixing_weights": mixed.get("weights") or mixed.get("layerwise")}


def _from_workdir(home, checkpoint, what):
  """The tokenizer or relations that stand in the workdir which the checkpoint names."""
  workdir = home.get("workdir")
  seed = str(home.get("seed"))
  path = workdir and os.path.join(
    workdir, *(("tokenizer", seed) if what == "tokenizer" else ("facts", seed, "relations.jsonl"))
  )
  if not path or not os.path.exists(path):
    raise UserError(
      f"{checkpoint}: its workdir ({workdir or 'unknown'}) is not there; say --{what}=PATH"
    )
  return path


def _stem(path):
  return os.path.basename(path).split(".")[0]
