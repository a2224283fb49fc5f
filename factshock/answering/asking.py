"""Asking a checkpoint for a facts file: from files to a predictions file."""

import os

from factshock.console import UserError


def ask(config, checkpoint, facts, output, *, mode="rank", shots=0, shot_facts=None, candidates=None, prompt=None,
        max_tokens=16, tokenizer=None, relations=None, arm=None):
  """Writes the predictions of a checkpoint on a facts file; returns the rows.

  Args:
    config: the experiment's config (model, prompt, batch size).
    checkpoint, facts, output, candidates, shot_facts, tokenizer, relations: paths; see factshock/answer.py.
    mode: "rank" or "generate". prompt: "cloze" or "question"; None is config.finetune.prompt.

  Raises:
    UserError: files that are missing, malformed, or do not fit each other or the config's model.
  """
  import jax
  from factshock.answering import decoding, predictions, ranking
  from factshock.data import prompts, tokenizers
  from factshock.facts import relations as relations_room
  from factshock.facts import schema
  from factshock.models import t5
  from factshock.training import checkpoints, partitioning

  partitioning.use_cpu_devices(config.cpu_devices)
  manifest = checkpoints.read_manifest(checkpoint)
  home = manifest["config"] or {}
  tokenizer = tokenizers.load(tokenizer or _from_workdir(home, checkpoint, "tokenizer"))
  table = relations_room.read_relations(relations or _from_workdir(home, checkpoint, "relations"))
  rows = schema.read_facts(facts)
  schema.check_facts(rows, table, facts)
  model = t5.T5Config(vocab_size=tokenizer.size, **config.model.to_dict())
  like = jax.eval_shape(lambda: t5.init(model, jax.random.key(0)))
  params = checkpoints.restore(checkpoint, like={"params": like})["params"]
  texts = _prompts(prompts, schema, rows, table, prompt or config.finetune.prompt, shots, shot_facts)
  mesh = partitioning.make_mesh()
  labels = dict(arm=arm or home.get("arm") or "answers", seed=home.get("seed", 0), split=_stem(facts))
  if mode == "generate":
    said, scores = decoding.generate(params, model, tokenizer, texts, max_length=max_tokens,
                                     batch_size=config.answering.batch_size, mesh=mesh)
    answers = predictions.text_rows(rows, said, scores, **labels)
  else:
    options = predictions.candidates_of(schema.read_facts(candidates) if candidates else rows,
                                        dict.fromkeys(fact["relation"] for fact in rows))
    scores = ranking.rank(params, model, tokenizer, texts, [fact["relation"] for fact in rows], options,
                          batch_size=config.answering.batch_size, mesh=mesh)
    answers = predictions.prediction_rows(rows, options, scores, top=config.answering.top or None, **labels)
  predictions.write_predictions(output, answers)
  return answers


def _prompts(prompts, schema, rows, table, form, shots, shot_facts):
  if shots and not shot_facts:
    raise UserError(f"--shots={shots} needs --shot_facts=FILE, the facts to draw them from")
  pool = schema.read_facts(shot_facts) if shots else []
  return [prompts.k_shot_prompt(fact, table, prompts.choose_shots(fact, pool, shots, 0) if shots else [], form)
          for fact in rows]


def _from_workdir(home, checkpoint, what):
  """The tokenizer or relations that stand in the workdir which the checkpoint names."""
  workdir, seed = home.get("workdir"), str(home.get("seed"))
  path = workdir and os.path.join(workdir, *(("tokenizer", seed) if what == "tokenizer" else
                                             ("facts", seed, "relations.jsonl")))
  if not path or not os.path.exists(path):
    raise UserError(f"{checkpoint}: its workdir ({workdir or 'unknown'}) is not there; say --{what}=PATH")
  return path


def _stem(path):
  return os.path.basename(path).split(".")[0]
