"""One seed of a study: its facts and text as a tokenizer and a model read them, pretrained weights, and how it answers."""

import functools
import math
import os
from typing import NamedTuple

import numpy as np

from factshock import config as configs
from factshock import material as materials
from factshock import texts as text_room
from factshock.console import UserError
from factshock.facts import splits

SPLITS = ("development", "test")
_ORDERS = 1_000_003  # between the seeds of two orders of one study
_BELIEVED = 1e-3  # less likely answers are not taught


class Study(NamedTuple):
  """One seed of an experiment, ready to train and answer."""
  config: object
  workdir: str
  seed: int
  mesh: object
  relations: dict
  sets: dict        # name -> facts: pool, development, test, and the finetuning sets
  counts: dict      # (relation, answer) -> mentions in the corpus
  candidates: dict  # relation -> answers to rank
  tokenizer: object
  model: object     # T5Config or LlamaConfig
  texts: object     # (kind of texts.KINDS) -> [(data.mixture source of the pretraining task, its share of it)], read when first asked for
  queries: dict     # prepared queries by (prompt, shots, split), filled as they are needed


def prepare(config, workdir, seed, mesh):
  """Builds the Study of one seed of an experiment; a pure function of config and seed, but for what it stores.

  Writes facts/<seed>/ (every set, relations, answer counts) and tokenizer/<seed>/ under `workdir`.

  Raises:
    UserError: facts, relations or text that do not fit each other or the config.
  """
  material = materials.of(config, workdir, seed)
  return assemble(config, workdir, seed, mesh, material, materials.make_sets(material, config, seed))


def assemble(config, workdir, seed, mesh, material, sets):
  """The Study of material and sets of facts: tokenizer, model and pretraining task as the config says."""
  from factshock.answering import predictions
  from factshock.data import tokenizers
  from factshock.models import family

  folder = os.path.join(workdir, "tokenizer", str(seed))
  tokenizer = text_room.tokenizer(config, material, folder)
  tokenizers.save(tokenizer, folder)
  materials.write_facts(os.path.join(workdir, "facts", str(seed)), sets, material)
  model = family.from_section(config.model.to_dict(), tokenizer.size)
  texts = functools.cache(functools.partial(text_room.sources, config, workdir, seed, material, sets, tokenizer))
  candidates = predictions.candidates_of(material.facts + material.background)
  return Study(config, workdir, seed, mesh, material.relations, sets, material.counts, candidates, tokenizer,
               model, texts, {})


def prompt_texts(study, facts, prompt, shots=0, shot_facts="pool"):
  """The prompts of facts in one of config.PROMPTS, after `shots` answered ones of other subjects."""
  from factshock.data import prompts

  return prompts.prompt_texts(facts, study.relations, prompt, is_decoder(study), shots, study.sets[shot_facts] if shots else (),
                              study.seed)


def is_decoder(study):
  """Whether the study's model is decoder-only."""
  return study.config.model.family == "llama"


def question_source(study, facts, prompt, loss_weight=1.0, belief=None, fact_weights=None, adjustment=0.0):
  """(source, longest [input, target] tokens) of finetuning examples: each fact's prompt and its answer.

  Args:
    belief: None for the facts' own objects; else for each fact probabilities [candidates] that are taught in their place.
    fact_weights: None, or for each fact what its loss is multiplied by. adjustment: strength of the logit adjustment by how often the
      facts have each answer (data/soft_labels.py); 0 for none.
  """
  from factshock.data import decoder_text, mixture, prompts, soft_labels

  room, fields = (decoder_text, ("tokens",)) if is_decoder(study) else (prompts, ("inputs", "targets"))
  texts = prompt_texts(study, facts, prompt)
  if belief is not None or adjustment:
    belief = belief or [on_object(study, fact) for fact in facts]
    encode = lambda row, place: room.encode_example(study.tokenizer, texts[row], study.candidates[facts[row]["relation"]][place])
    prior = functools.cache(lambda relation: splits.answer_prior(facts, relation, study.candidates[relation]))
    priors = [prior(fact["relation"]) for fact in facts] if adjustment else None
    source = soft_labels.soft_source(encode, belief, priors, adjustment, loss_weight, pad=decoder_text.PAD if is_decoder(study) else 0)
    examples = [encode(row, int(place)) for row, p in enumerate(belief) for place in np.flatnonzero(p)]
  else:
    examples = [room.encode_example(study.tokenizer, text, prompts.answer_text(fact, prompt)) for text, fact in zip(texts, facts)]
    for example, weight in zip(examples, () if fact_weights is None else fact_weights):
      example["weights"] = np.float32(weight) * example.get("weights", np.ones(len(example[fields[-1]]), np.float32))
    source = (decoder_text if is_decoder(study) else mixture).qa_source(examples, loss_weight)
  lengths = tuple(max(len(one[field]) for one in examples) for field in fields)
  return source, lengths if len(lengths) == 2 else (*lengths, 0)


def on_object(study, fact):
  """All probability on a fact's object, among the candidates of its relation."""
  return (np.array(study.candidates[fact["relation"]]) == fact["object"]).astype(float)


def teacher_belief(study, params, facts, prompt, shots=0, best=False):
  """What a model believes of facts, asked by a prompt: for each probabilities [candidates] of at least _BELIEVED each.

  Args:
    best: all on the likeliest candidate.
  """
  asked = study._replace(sets={**study.sets, "asked": facts}, queries={})
  found = []
  for one in scores(asked, params, "asked", prompt, shots):
    p = np.exp(one - one.max())
    p = (p == p.max()).astype(float) if best else np.where(p / p.sum() >= _BELIEVED, p, 0)
    found.append(p / p.sum())
  return found


def scores(study, params, split, prompt, shots=0, shot_facts="pool"):
  """Log-probabilities of every candidate for each fact of a split: list of arrays [candidates]."""
  from factshock.answering import ranking

  key = (prompt, shots, shot_facts, split)
  if key not in study.queries:
    facts = study.sets[split]
    texts = prompt_texts(study, facts, prompt, shots, shot_facts)
    study.queries[key] = ranking.prepare(study.tokenizer, texts, [fact["relation"] for fact in facts],
                                         study.candidates, study.config.answering.batch_size)
  return ranking.rank_prepared(params, study.model, study.queries[key], study.mesh)


def cloze_scores(study, params, split, number):
  """As `scores`, by the statement `number` of each relation that has so many: {relation: list of arrays}.

  A decoder-only model has none for a statement that goes on after the answer.
  """
  from factshock.data import prompts

  relations = {name: {**row, "statements": [row["statements"][number]]} for name, row in study.relations.items()
               if number < len(row["statements"]) and prompts.can_ask(row["statements"][number], is_decoder(study))}
  facts = [fact for fact in study.sets[split] if fact["relation"] in relations]
  if not facts:
    return {}
  asked = study._replace(relations=relations, sets={split: facts}, queries={})
  found = {name: [] for name in relations}
  for fact, one in zip(facts, scores(asked, params, split, "cloze")):
    found[fact["relation"]].append(one)
  return found


def share_right(study, split, relation, scores_by_fact):
  """The share of a split's facts of one relation whose best candidate is the object; 0 without facts."""
  facts = [fact for fact in study.sets[split] if fact["relation"] == relation]
  right = [study.candidates[relation][int(one.argmax())] == fact["object"] for fact, one in zip(facts, scores_by_fact)]
  return sum(right) / max(1, len(right))


def facts_path(workdir, seed, name):
  """A file of the facts of one seed in a workdir."""
  return os.path.join(workdir, "facts", str(seed), name)


def predictions_path(workdir, label, seed, split):
  """The predictions file of one label, seed and split in a workdir."""
  return os.path.join(workdir, "predictions", f"{label}.seed{seed}.{split}.jsonl.gz")


def answered(workdir, label, seed):
  """Whether the predictions of a label are there, for development and test."""
  return all(os.path.exists(predictions_path(workdir, label, seed, split)) for split in SPLITS)


def write_answers(study, label, split, scores_by_fact, **extra):
  """Writes the predictions file of one label and split from candidate scores."""
  from factshock.answering import predictions

  rows = predictions.prediction_rows(
      study.sets[split], study.candidates, scores_by_fact, top=kept(study.config, label), **_labels(study, label, split), **extra)
  predictions.write_predictions(predictions_path(study.workdir, label, study.seed, split), rows)


def kept(config, label):
  """How many candidates the predictions of a label keep: config.answering.top, or None, which is all, where a prior correction reads them."""
  reading = [arm for arm in config.arms.values() if arm.kind == "prior_correction"]
  read = {arm[key] for arm in reading for key in ("of", "with_arm") if key in arm}
  return None if label.split("@")[0] in read else config.answering.top or None


def write_rows(study, label, split, rows):
  """Writes ready rows as the predictions file of one label and split."""
  from factshock.answering import predictions

  predictions.write_predictions(predictions_path(study.workdir, label, study.seed, split), rows)


def answer(study, label, params, prompt, shots=0, shot_facts="pool", **extra):
  """Asks a model all development and test facts and writes the predictions files, as config.answering.mode says."""
  for split in SPLITS:
    if study.config.answering.mode == "rank" and prompt not in configs.CHOICE_PROMPTS:
      write_answers(study, label, split, scores(study, params, split, prompt, shots, shot_facts), **extra)
    else:
      _write_said(study, label, split, params, prompt, shots, shot_facts, extra)


def _write_said(study, label, split, params, prompt, shots, shot_facts, extra):
  """Writes what a model generates, or which of a fact's own choices it takes."""
  from factshock.answering import choices, decoding, predictions

  facts, labels = study.sets[split], {**_labels(study, label, split), **extra}
  asked = (params, study.model, study.tokenizer)
  texts = prompt_texts(study, facts, prompt, shots, shot_facts)
  size = dict(batch_size=study.config.answering.batch_size, mesh=study.mesh)
  if prompt in configs.CHOICE_PROMPTS:
    rows = choices.rows(*asked, facts, texts, letters=prompt == "letters", **size, **labels)
  else:
    rows = predictions.text_rows(facts, *decoding.generate(*asked, texts, max_length=study.config.answering.max_tokens, **size), **labels)
  predictions.write_predictions(predictions_path(study.workdir, label, study.seed, split), rows)


def _labels(study, label, split):
  return {"arm": label.split("@")[0], "seed": study.seed, "split": split}


def checkpoint_folder(workdir, arm, seed):
  """The folder of an arm's checkpoints of one seed, a step folder each, in a workdir."""
  return os.path.join(workdir, "checkpoints", arm, str(seed))


def optimization(section):
  """The part of a section that its optimizer is made of, hashable."""
  plain = [(key, section[key]) for key in (
      "optimizer", "learning_rate", "schedule", "warmup", "steps", "final", "b2", "weight_decay", "clip")]
  own = [(key, section[key]) for key in ("l2_sp", "ema", "trained", "frozen") if section.get(key)]
  return tuple(sorted(plain + own))


@functools.lru_cache(maxsize=None)
def train_step(model, section, accumulate, lora_scale=None, axis=None):
  """The train step and optimizer of a model and an optimization section; one object each, so compiled once.

  With a `lora_scale` the step trains adapters and takes the weights as its `frozen`; with an `axis` it sums over it (pmap).
  """
  from factshock.models import lora
  from factshock.training import optimizers
  from factshock.training import train_step as steps

  def adapted(adapters, frozen, **arguments):
    return steps.loss_fn(lora.attach(frozen, adapters, lora_scale), model, **arguments)

  optimizer = optimizers.make_optimizer(dict(section))
  loss = functools.partial(steps.loss_fn, config=model) if lora_scale is None else adapted
  return steps.make_train_step(loss, optimizer, accumulate, axis), optimizer


def lora_scale(section):
  """alpha / rank of a section's adapters, None where all weights are trained."""
  return section["lora_alpha"] / section["lora_rank"] if section.get("lora_rank") else None


def train(study, name, section, sources, ratios, rows, params, order=0, evaluate=None, eval_steps=()):
  """Trains `params` on a mixture of sources by one optimization section; goes on where it was interrupted.

  A batch has `rows` times the section's batch_size examples, of which each source gives its share by `ratios`, in an order by the
  study's seed and `order`.
  Where the section asks for adapters these are trained, and `evaluate` gets the params with them attached.

  Returns:
    The trained parameters, or adapters.
  """
  import jax
  from factshock.data import mixture
  from factshock.models import layers, lora
  from factshock.training import drivers, loop, metrics, optimizers
  from factshock.training import train_step as steps

  scale, frozen = lora_scale(section), None
  parallel = study.config.parallel
  step_fn, optimizer = train_step(study.model, optimization(section), section["accumulate"], scale, drivers.AXIS if parallel == "pmap" else None)
  if scale:
    adapters = lora.init(params, jax.random.key(study.seed), section["lora_rank"], section["lora_targets"])
    frozen, params = layers.bits_on_cpu(params), adapters
  weights = lambda state: lora.attach(frozen, optimizers.averaged(state), scale) if scale else optimizers.averaged(state)
  batch_size = round(section["batch_size"] * rows)
  batches = mixture.batches(sources, ratios, batch_size=batch_size, input_length=section["input_length"],
                            target_length=section["target_length"], seed=study.seed + _ORDERS * order,
                            pack_to=_row_multiple(study, section, batch_size) if section["pack"] else 0)
  folder = checkpoint_folder(study.workdir, name, study.seed)
  with metrics.Metrics(os.path.join(study.workdir, "metrics", name, str(study.seed))) as writer:
    state = loop.train(
        steps.init_state(params, optimizer), step_fn, batches, steps=section["steps"],
        key=jax.random.key(study.seed), mesh=study.mesh, label=name, metrics=writer,
        log_every=section["log_every"], evaluate=evaluate, eval_steps=eval_steps, weights=weights, frozen=frozen, parallel=parallel,
        checkpoint=loop.Checkpointing(folder, section["checkpoint_every"], provenance(study, name, section),
                                      None if section.get("keep_checkpoints") else 1))
  return state["params"]


def finetune(study, name, facts, section, start, *, ratio=0, question_weight=1.0, text="whole", belief=None, fact_weights=None,
             adjustment=0.0, order=0, evaluate=None):
  """Finetunes the weights `start` on facts, with `ratio` examples of the pretraining task to each question.

  Args:
    section: as config.finetune; its lengths are the most a row may have.
    question_weight: multiplies the questions' loss. text: one of texts.KINDS. belief, fact_weights, adjustment: as in question_source.
    order: another number, another order of the examples. evaluate: function of (step, params), called at eval_steps.
  """
  questions, needs = question_source(study, facts, section["prompt"], question_weight, belief, fact_weights, adjustment)
  section = fit_lengths(section, needs, study.config.pretrain if ratio else None)
  chosen = study.texts(text) if ratio else []
  return train(study, name, section, [questions, *(source for source, _ in chosen)],
               [1.0, *(ratio * share for _, share in chosen)], 1 + ratio, start, order, evaluate, section["eval_steps"] if evaluate else ())


def fit_lengths(section, needs, text=None):
  """A section whose lengths are no longer than its examples' `needs` (and the text's section, if any) ask for.

  Lengths come in few sizes (`batching.bucket`), so that arms share compiled steps; config.finetune's are the most.
  """
  from factshock.data import batching

  lengths = {}
  for name, need in zip(("input_length", "target_length"), needs):
    need = max(need, text[name] if text else 0)
    lengths[name] = min(section[name], batching.bucket(need)) if need else 0
  return {**section, **lengths}


def _row_multiple(study, section, batch_size):
  """Packed rows come in eighths of a batch, each divisible over devices and microbatches."""
  from factshock.training import partitioning

  least = math.lcm(partitioning.batch_ways(study.mesh), section["accumulate"])
  return least * max(1, batch_size // 8 // least)


def provenance(study, arm, section=None):
  """What a checkpoint says of itself: its experiment, where its tokenizer and relations stand, and for adapters
  what they stand on."""
  record = {"arm": arm, "seed": study.seed, "workdir": os.path.abspath(study.workdir),
            "experiment": configs.to_dict(study.config)}
  if section and lora_scale(section):
    record["lora"] = {"rank": section["lora_rank"], "alpha": section["lora_alpha"], "base": _base(study)}
  return record


def _base(study):
  """Where the pretrained weights are read from: a checkpoint's folder or a HuggingFace model."""
  if starts_ready(study.config):
    return study.config.start_from
  return os.path.abspath(checkpoint_folder(study.workdir, "pretrained", study.seed))


def starts_ready(config):
  """Whether a config's pretrained weights are those of a HuggingFace model, untouched: they are not copied."""
  from factshock.answering import asking

  return bool(config.start_from) and config.pretrain.steps == 0 and not asking.is_checkpoint(config.start_from)


def finetuned(study, arm, step=None):
  """The weights of a finetuned arm: its checkpoint's (the newest, or a kept one), or its adapters merged into the pretrained weights."""
  from factshock.models import lora
  from factshock.training import checkpoints

  folder = checkpoint_folder(study.workdir, arm, study.seed)
  params, record = checkpoints.restore_params(folder, step), checkpoints.read_manifest(folder, step)["config"]
  if "lora" not in record:
    return params
  return lora.merge(pretrained(study), params, record["lora"]["alpha"] / record["lora"]["rank"])


def random_params(study):
  """Random weights of the study's model, by its seed."""
  import jax
  from factshock.models import family

  return family.of(study.model).init(study.model, jax.random.key(study.seed))


def pretrained(study):
  """The pretrained weights: trained if need be, from scratch or from config.start_from; else read back."""
  from factshock.training import checkpoints

  section, folder = study.config.pretrain, checkpoint_folder(study.workdir, "pretrained", study.seed)
  if starts_ready(study.config):
    return start_weights(study)
  if checkpoints.latest_step(folder) == section.steps:
    try:
      return checkpoints.restore_params(folder)
    except checkpoints.Damaged as error:
      checkpoints.set_aside(folder, section.steps, error)
  params = start_weights(study) if study.config.start_from else random_params(study)
  params = train(study, "pretrained", section, *zip(*study.texts("whole")), 1, params)
  if section.steps == 0:
    checkpoints.save(folder, 0, params=params, config=provenance(study, "pretrained"))
  return params


def start_weights(study):
  """The weights that config.start_from names: a checkpoint of ours, or a HuggingFace folder or hub id.

  Raises:
    UserError: nothing there, or a model of other sizes than config.model (naming each).
  """
  import jax
  from factshock.answering import asking
  from factshock.models import family, huggingface
  from factshock.training import checkpoints

  source = study.config.start_from
  if asking.is_checkpoint(source):
    like = jax.eval_shape(lambda: family.of(study.model).init(study.model, jax.random.key(0)))
    return checkpoints.restore(source, like={"params": like})["params"]
  differing = family.differences(huggingface.config_of(source), study.model)
  if differing:
    raise UserError(f"config.start_from={source}: is another model than config.model says (there, here):\n  "
                    + "\n  ".join(differing) + "\n  configs/pretrained.py:PATH takes the sizes from the model")
  return huggingface.load(source, param_dtype=study.model.param_dtype)[0]
