"""Python API: `import factshock as fs`, then fs.load, fs.answer, fs.diagnose and the others.

Facts, relations and predictions are paths, data sets ("popqa:PATH"), DataFrames or lists of dicts.
What goes wrong is raised as fs.UserError. Nothing is printed on stdout: messages and progress go to
stderr, or with `fs.messages_to(function)` to a function. docs/python.md shows all of it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from factshock.interface.inputs import Arms, Counts, Relations, Table
  from factshock.interface.models import Model
  from factshock.interface.results import Diagnosis, Graph
  from factshock.interface.theory import Theory
  from factshock.knowledge_graph.pipeline import ModelIdentity
  from factshock.runtime.tables import Frame
  from factshock.types import Config, FilePath

__all__ = (
  "UserError",
  "answer",
  "compute_theory",
  "convert",
  "correct",
  "count",
  "diagnose",
  "experiment",
  "extract",
  "finetune",
  "load",
  "messages_to",
  "mix",
  "read_diagnosis",
)

_MODEL = "model"  # of a frame's attrs: whose answers they are


def messages_to(function: Callable[[str], None]) -> AbstractContextManager[None]:
  """Hands messages and lines of progress to a function, a line each, while the context lasts.

  Args:
    function: takes a line; `lambda line: None` silences all.
  """
  from factshock.runtime import messages

  return messages.sent_to(function)


def load(
  source: "FilePath",
  *,
  config: "Config | str | None" = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
) -> "Model":
  """Loads a model that can be asked.

  Args:
    source: a checkpoint's folder, a HuggingFace model's folder or hub id, a .gguf file, or a served
      model as "endpoint:URL?model=NAME" (docs/served.md).
    config: the config that a checkpoint was trained with; None is that of its own record.
    tokenizer: folder of the tokenizer; None is the model's own.
    dtype: "float32", "bfloat16" or "int8", which the model is computed in; None is its own.

  Raises:
    UserError: there is no such model, or it cannot be read.
  """
  from factshock.interface import configs, inputs, models

  with inputs.tables_as_files():
    own = configs.load(config) if config is not None else None
    return models.load(source, own, tokenizer, dtype)


def answer(  # noqa: PLR0913 - what a caller may choose, each by its name
  model: "Model | FilePath",
  facts: "Table",
  relations: "Relations | None" = None,
  *,
  mode: str = "rank",
  prompt: str | None = None,
  shots: int | None = None,
  shot_facts: "Table | None" = None,
  candidates: "Table | None" = None,
  candidates_only: bool = False,
  top: int | None = None,
  max_tokens: int = 16,
  stop: str | Sequence[str] | None = None,
  beams: int = 4,
  temperature: float = 1.0,
  seed: int = 0,
  sets: int = 10,
  samples: int = 16,
  arm: str | None = None,
  output: "FilePath | None" = None,
) -> "Frame":
  """Asks a model for facts.

  Args:
    model: of `load`, or what `load` takes.
    facts: what is asked: subject, relation, object; a data set as "popqa:PATH".
    relations: templates by relation, {"capital": "The capital of [X] is [Y] ."}, or a table or
      path; None are those of the data set or of the checkpoint's workdir.
    mode: "rank" compares candidates; "greedy", "beam" and "sample" generate; "votes" samples
      several, whose shares are the probabilities; "letters" and "choices" are for facts with
      choices; "known" says what the model knows of each fact.
    prompt: "cloze", "question" or "chat"; None is the form that the model was finetuned on.
    shots: answered facts before each question; None is 0, with "known" 4.
    shot_facts: the facts to draw them from.
    candidates: facts whose objects "rank" compares too.
    candidates_only: whether it compares these alone.
    top: candidates that "rank" keeps in a row; 0 is all, as `correct` needs; None is 10.
    max_tokens: longest generated answer.
    stop: text or texts that end a generated answer; None are those that fit the prompt.
    beams: hypotheses of "beam".
    temperature: of "sample" and "votes".
    seed: of "sample" and "votes".
    sets: sets of shots of "known".
    samples: of "votes"; of "known" a set.
    arm: name of the arm in the answers; None is the model's.
    output: file to write the answers to as well, in place of what is there; nothing is kept of a
      call that ends early (`factshock answer` keeps parts).

  Returns:
    A row a fact, with columns prediction, score (log-probability) and candidates; with "known" the
    columns known, greedy_right and confidence.

  Raises:
    UserError: facts, relations or options that do not fit.
  """
  from factshock.answering.asking import AnswerOptions, KnowledgeOptions
  from factshock.answering.prompting import Prompting
  from factshock.interface import asking, inputs, models, parameters
  from factshock.runtime import tables

  parameters.check_prompt(prompt, mode)
  parameters.check_ranking(mode, {"candidates": candidates, "top": top}, candidates_only)
  parameters.check_numbers(shots=shots, top=top, sets=sets, samples=samples)
  decoding = asking.decoding(mode, max_tokens, beams=beams, temperature=temperature, seed=seed)
  shot_count = asking.DEFAULT_SHOTS.get(mode, 0) if shots is None else shots
  with inputs.tables_as_files() as given:
    shot_path = given.table(shot_facts, "shot_facts")
    relations_path = given.relations(relations)
    prompting = Prompting(prompt, shot_count, shot_path, parameters.stops(stop))
    options: AnswerOptions | KnowledgeOptions
    if mode == "known":
      options = KnowledgeOptions(prompting, max_tokens, sets, samples, relations=relations_path)
    else:
      options = AnswerOptions(
        "generate" if mode in asking.DECODING else mode,
        prompting,
        decoding,
        given.table(candidates, "candidates"),
        candidates_only,
        relations=relations_path,
        arm=arm,
        top=top,
        samples=samples,
      )
    path = given.needed(facts, "facts")
    opened = models.opened(model)
    answers = tables.frame(asking.answer(opened, path, options, _path(output)))
    answers.attrs[_MODEL] = opened.identity()
    return answers


def diagnose(  # noqa: PLR0913 - what a caller may choose, each by its name
  arms: "Arms",
  *,
  finetuning: "Table | None" = None,
  counts: "Counts | None" = None,
  relations: "Relations | None" = None,
  reference: str | None = None,
  known: str | None = None,
  finetuned: str | None = None,
  corrected: str | None = None,
  criterion: str = "exact_match",
  split: str | None = None,
  columns: Mapping[str, str] | None = None,
  resamples: int = 1000,
  confidence: float = 0.95,
  seed: int = 0,
  output: "FilePath | None" = None,
) -> "Diagnosis":
  """Diagnoses predictions: accuracy, frequency shock, and paired comparisons of arms.

  Args:
    arms: predictions by the name of their arm, {"before": a, "after": b}; a list for one arm has
      its seeds. Without names, one table or a list: the rows name the arms.
    finetuning: the facts that models were finetuned on.
    counts: how often pretraining names each entity: a table or path with entity and count, a
      mapping by entity, or "wordfreq:en".
    relations: relations with their types, where averages over types are wanted.
    reference: the arm that others are compared with; None is the first.
    known: the arm whose right answers count as known facts.
    finetuned: the finetuned arm, which sentences are about; with `corrected` a verdict, too.
    corrected: that arm with its answer prior restored.
    criterion: "exact_match" or "contains": what makes an answer right.
    split: only rows of this split.
    columns: our names of columns -> those of the tables, {"object": "answer"}.
    resamples: of the bootstrap.
    confidence: of the intervals.
    seed: of the bootstrap.
    output: folder for report.html, diagnosis.json and the tables as csv.

  Raises:
    UserError: predictions that are malformed or of different queries, or an arm there is not.
  """
  from factshock.diagnosis import of_files
  from factshock.diagnosis.statistics import Bootstrap
  from factshock.interface import inputs, parameters, results

  parameters.check_numbers(resamples=resamples, confidence=confidence, seed=seed)
  parameters.check_among("criterion", criterion, ("exact_match", "contains"))
  with inputs.tables_as_files() as given:
    options = of_files.FileOptions(
      finetuning=given.table(finetuning, "finetuning"),
      counts=given.counts(counts),
      relations=given.relations(relations),
      reference=reference,
      known=known,
      finetuned=finetuned,
      corrected=corrected,
      criterion=criterion,
      split=split,
      columns=columns or {},
    )
    data = of_files.diagnose(given.arms(arms), options, Bootstrap(resamples, confidence, seed))
    diagnosis = results.Diagnosis(data)
    if output is not None:
      diagnosis.save(output)
    return diagnosis


def read_diagnosis(path: "FilePath") -> "Diagnosis":
  """Reads the diagnosis of a folder that diagnose or an experiment wrote.

  Args:
    path: the folder, or its diagnosis.json.

  Raises:
    UserError: there is none.
  """
  from factshock.interface import results
  from factshock.report import folder
  from factshock.runtime import json_files

  name = os.fspath(path)
  if os.path.isdir(name):
    name = os.path.join(name, folder.DIAGNOSIS)
  return results.Diagnosis(json_files.read(name))


def correct(
  answers: "Table",
  *,
  reference: "Table | None" = None,
  counts: "Counts | None" = None,
  development: "Table | None" = None,
  finetuning: "Table | None" = None,
  tau: float = 1.0,
  columns: Mapping[str, str] | None = None,
  output: "FilePath | None" = None,
) -> "Frame":
  """Moves the answers of a finetuned model back to the answer frequencies of a reference.

  Args:
    answers: ranked answers with all candidates in each row (answer with top=0).
    reference: the answers of the model before finetuning to the same queries; or
    counts: how often a text names each answer.
    development: the finetuned model's answers to development facts, to choose tau on.
    finetuning: the facts finetuned on, which development facts must be apart from.
    tau: how much of the correction is applied; 0 is nothing.
    columns: our names of columns -> those of the tables.
    output: predictions file to write as well.

  Returns:
    The corrected answers; `attrs["correction"]` says what changed, as lines of text.

  Raises:
    UserError: not one of reference and counts, or tables that do not fit each other.
  """
  from factshock.interface import inputs, parameters
  from factshock.predictions import correcting, writing
  from factshock.runtime import tables

  parameters.check_numbers(tau=tau)
  with inputs.tables_as_files() as given:
    options = correcting.CorrectionOptions(
      reference=given.table(reference, "reference"),
      counts=given.counts(counts),
      development=given.table(development, "development"),
      finetuning=given.table(finetuning, "finetuning"),
      tau=tau,
      columns=columns or {},
    )
    path = given.needed(answers, "answers")
    correction = correcting.correct(path, options)
    rows = list(correction.rows)
    if output is not None:
      writing.write_predictions(os.fspath(output), rows)
    corrected = tables.frame(rows)
    corrected.attrs["correction"] = correcting.lines(correction)
    return corrected


def extract(  # noqa: PLR0913 - what a caller may choose, each by its name
  answers: "Table | Model",
  calibration: "Table",
  *,
  queries: "Table | None" = None,
  relations: "Relations | None" = None,
  precision: float = 0.9,
  rule: str = "precision",
  calibrator: str | None = None,
  finetuning: "Table | None" = None,
  counts: "Counts | None" = None,
  answer_set: "Table | None" = None,
  prior_correction: "Table | None" = None,
  types: "FilePath | None" = None,
  formats: Sequence[str] = (),
  columns: Mapping[str, str] | None = None,
  mode: str = "rank",
  prompt: str | None = None,
  shots: int | None = None,
  shot_facts: "Table | None" = None,
  max_tokens: int = 16,
  beams: int = 4,
  samples: int = 16,
  output: "FilePath | None" = None,
  overwrite: bool = False,
) -> "Graph":
  """Extracts a knowledge graph: calibrates answers and accepts the triples that can be trusted.

  Args:
    answers: what a model answered to the queries; or the model, which is asked: of `load`, which
      takes its tokenizer and config.
    calibration: its answers to facts apart from the queries; of a model, these facts.
    queries: what a model is asked (subject, relation), or to which answers are limited.
    relations: relations with their types (1-1, N-1), inverses and symmetries, where known.
    precision: what is promised of the accepted answers; a lower one may by chance accept slightly
      fewer, as a promise is tested at a few thresholds, whose places depend on it.
    rule: "precision", or "f1": what has the greatest expected F1.
    calibrator: "isotonic" or "platt"; None is the better of both.
    finetuning: facts finetuned on, which calibration must be apart from.
    counts: how often pretraining names each answer.
    answer_set: facts that tell ids and aliases of answers; their objects alone are what "rank"
      compares. None compares all answers known.
    prior_correction: answers of the model before finetuning, or "counts".
    types: path of the entities' types.
    formats: graph formats to write to `output`, such as "nt" or "neo4j".
    columns: our names of columns -> those of the tables.
    mode: how a model is asked: "rank", "greedy", "beam" or "votes".
    prompt: how a model is asked: "cloze" or "question"; None is as it was finetuned.
    shots: answered facts before each question to a model; None is 0.
    shot_facts: the facts to draw them from.
    max_tokens: longest generated answer.
    beams: hypotheses of "beam".
    samples: of "votes".
    output: folder to write; None is a temporary one.
    overwrite: whether an extraction that is there is written anew; after an error it stays. Without
      it a call goes on with what a model answered in one that did not end.

  Raises:
    UserError: tables that do not fit each other, or an output that is there already.
  """
  import tempfile

  from factshock.interface import extracting, inputs, parameters, results
  from factshock.knowledge_graph import formats as graph_formats
  from factshock.knowledge_graph import pipeline

  parameters.check_numbers(
    precision=precision, shots=shots, max_tokens=max_tokens, beams=beams, samples=samples
  )
  if not _is_model(answers):
    parameters.check_asks_a_model(prompt=prompt, shots=shots, shot_facts=shot_facts)
  parameters.check_among("rule", rule, ("precision", "f1"))
  parameters.check_among("calibrator", calibrator, ("isotonic", "platt"))
  parameters.check_among("prompt", prompt, ("cloze", "question"))
  graph_formats.check_names(formats)
  kept = tempfile.TemporaryDirectory(prefix="factshock-graph-") if output is None else None
  folder = kept.name if kept else os.fspath(output or "")
  with inputs.tables_as_files() as given:
    extracting.check_new(folder, asks=_is_model(answers), overwrite=overwrite)
    options = pipeline.Options(
      model=_identity(answers),
      rule=rule,
      precision=precision,
      graph_formats=tuple(formats),
      calibrator=calibrator,
      counts=given.counts(counts),
      types=_path(types),
      finetuning=given.table(finetuning, "finetuning"),
      answer_set=given.table(answer_set, "answer_set"),
      prior_correction=given.table(prior_correction, "prior_correction"),
      columns=columns or {},
    )
    calibration_path = given.needed(calibration, "calibration")
    queries_path = given.table(queries, "queries")
    source = extracting.Source(queries_path, calibration_path, given.relations(relations))
    if _is_model(answers):
      from factshock.answering.candidates import QueryOptions
      from factshock.answering.prompting import Prompting
      from factshock.interface import asking

      prompting = Prompting(prompt, shots or 0, given.table(shot_facts, "shot_facts"))
      how = QueryOptions(mode, prompting, max_tokens=max_tokens, beams=beams, samples=samples)
      summary = asking.extract_by(answers, source, folder, options, how, overwrite)
    else:
      path = given.needed(cast("Table", answers), "answers")
      options = source.limited(options)
      summary = extracting.extract(folder, path, source.calibration, options, overwrite)
    return results.Graph(folder, summary, kept)


def mix(  # noqa: PLR0913 - what a caller may choose, each by its name
  models: "Sequence[Model | FilePath]",
  weights: Sequence[float] | str | None,
  output: "FilePath",
  *,
  layerwise: Sequence[float] | None = None,
  select: "Table | None" = None,
  profile: str = "uniform",
  relations: "Relations | None" = None,
  allow_other_tokenizer: bool = False,
  push_to_hub: str | None = None,
) -> str:
  """Averages models into a new one; `mix.json` in its folder says of what.

  Where one is a HuggingFace model, so is the result.

  Args:
    models: two or more, of `load` or what `load` takes.
    weights: one for each model (sum 1), or "uniform"; None with layerwise or select.
    output: folder to write; must not exist.
    layerwise: (bottom, top), shares of the second of two models that grow or fall in depth.
    select: development facts to choose the share of the second of two models on.
    profile: how the share that select chooses changes in depth: "uniform", "decreasing" or
      "increasing".
    relations: for select; None are those of the data set or of the model's workdir.
    allow_other_tokenizer: whether models are mixed whose tokens have other ids.
    push_to_hub: "org/name" on the HuggingFace hub to upload the mix to, as `convert` does.

  Returns:
    The folder, which `load` takes.

  Raises:
    UserError: models that do not fit each other, an output that exists, or no login at the hub.
  """
  from factshock.answering import selection
  from factshock.checkpoints import hub_upload, mixing
  from factshock.interface import inputs, parameters
  from factshock.interface import models as opened
  from factshock.runtime import messages

  paths = [opened.source_of(model) for model in models]
  ways = {"weights": weights, "layerwise": layerwise, "select": select}
  parameters.check_ways_to_mix(len(paths), ways)
  parameters.check_among("profile", profile, ("uniform", "decreasing", "increasing"))
  with inputs.tables_as_files() as given:
    if push_to_hub is not None:
      mixing.check_for_hub(paths)
    upload = hub_upload.Upload(push_to_hub) if push_to_hub is not None else None
    if select is not None:
      mixing.check_new(output)
      mixing.check_inputs(paths, allow_other_tokenizer)
      options = selection.SelectionOptions(profile=profile, relations=given.relations(relations))
      weights, layerwise = selection.choose_mix(paths, given.needed(select, "select"), options)
    mixing.mix_checkpoints(paths, weights, output, layerwise, allow_other_tokenizer)
    if upload:
      messages.say(upload.push(output))
    return os.fspath(output)


def finetune(
  config: "Config | str",
  output: "FilePath",
  *,
  facts: "Table | None" = None,
  relations: "Relations | None" = None,
  ratio: float = 0.0,
  seed: int = 0,
  settings: Mapping[str, Any] | None = None,
) -> str:
  """Finetunes the model of a config on facts; the same call goes on where it was interrupted.

  Args:
    config: a name such as "pretrained:google/flan-t5-base", a path, or a ConfigDict.
    output: the workdir; facts in memory are written beside it, as OUTPUT.facts.jsonl.
    facts: in place of config.facts.
    relations: in place of config.relations.
    ratio: examples of the pretraining task (config.corpus) mixed in with each question.
    seed: of everything random.
    settings: values of the config by key, such as {"finetune.steps": 100}.

  Returns:
    The folder of the checkpoint, which `load` takes.

  Raises:
    UserError: a config that cannot be used, or a workdir of something else.
  """
  from factshock.interface import configs, inputs, parameters
  from factshock.study import finetuning

  parameters.check_numbers(ratio=ratio, seed=seed)
  folder = os.fspath(output)
  with inputs.tables_as_files() as given:
    own = configs.load(config, settings)
    if facts is not None:
      own.facts = given.needed(facts, "facts", f"{folder}.facts.jsonl")
    if relations is not None:
      own.relations = given.relations(relations, f"{folder}.relations.jsonl")
    return finetuning.run(own, folder, seed=seed, ratio=ratio)


def experiment(
  config: "Config | str",
  output: "FilePath",
  *,
  settings: Mapping[str, Any] | None = None,
) -> "Diagnosis":
  """Runs every arm of an experiment, and diagnoses them; the same call goes on after a stop.

  Configs of the theory, such as "one_layer", train no arms that could be diagnosed:
  `compute_theory` is for them.

  Args:
    config: a name such as "demo", a path, or a ConfigDict.
    output: the workdir, which gets report.html too.
    settings: values of the config by key, such as {"pretrain.steps": 100}.

  Raises:
    UserError: a config that cannot be used, or a workdir of something else.
  """
  from factshock.interface import configs, inputs, results

  with inputs.tables_as_files():
    own = configs.load(config, settings)
    if configs.is_of_theory(own):
      raise UserError(
        "experiment: expected a study of arms, which can be diagnosed, got one of the theory, "
        "whose results are predictions that hold or fail; call compute_theory(output, config)"
      )
    from factshock.study import pipeline

    return results.Diagnosis(pipeline.run(own, os.fspath(output)) or {})


def compute_theory(
  output: "FilePath",
  config: "Config | str" = "one_layer",
  *,
  settings: Mapping[str, Any] | None = None,
) -> "Theory":
  """Computes the theory of the second paper in its one-layer transformer, over many seeds.

  Args:
    output: the workdir, which gets theory.json, facts.npz and report.html.
    config: the config "one_layer", a path, or a ConfigDict.
    settings: values of the config by key, such as {"seeds": 2}.

  Returns:
    `claims`, a row for each estimate of a prediction, `sentences`, `report()` and `data`.

  Raises:
    UserError: a config that cannot be used, or a workdir of something else.
  """
  from factshock.interface import configs, inputs
  from factshock.interface import theory as studies

  with inputs.tables_as_files():
    return studies.run(configs.load(config, settings), os.fspath(output))


def convert(
  source: "Model | FilePath",
  output: "FilePath",
  to: str,
  *,
  dtype: str | None = None,
  revision: str | None = None,
  allow_pickle: bool = False,
  config_from: str | None = None,
  push_to_hub: str | None = None,
) -> str:
  """Writes a model in another format.

  Args:
    source: a HuggingFace folder or hub id, a .gguf file, a T5X checkpoint, or one of ours.
    output: folder to write; must not exist.
    to: "huggingface", "orbax" (our checkpoints) or "peft" (adapters alone).
    dtype: "float32" or "bfloat16"; None keeps the stored one.
    revision: of a hub id.
    allow_pickle: whether PyTorch's .bin files are read, which can run code.
    config_from: HuggingFace folder whose config.json and tokenizer the result takes.
    push_to_hub: "org/name" on the HuggingFace hub to upload what is written to; a new one is
      private. The login is that of `hf auth login`, or HF_TOKEN.

  Returns:
    The folder.

  Raises:
    UserError: a source that cannot be read, an output that exists, or no login at the hub.
  """
  from factshock.checkpoints import conversion, hub_upload
  from factshock.interface import inputs, models, parameters
  from factshock.runtime import messages

  parameters.check_among("to", to, ("huggingface", "orbax", "peft"))
  if push_to_hub is not None and to != "huggingface":
    raise UserError(f"push_to_hub: expected to='huggingface', got to={to!r}")
  with inputs.tables_as_files():
    upload = hub_upload.Upload(push_to_hub) if push_to_hub is not None else None
    conversion.convert(
      models.source_of(source),
      os.fspath(output),
      to,
      dtype=dtype,
      revision=revision,
      allow_pickle=allow_pickle,
      config_from=config_from,
    )
    if upload:
      messages.say(upload.push(output))
    return os.fspath(output)


def count(
  text: "FilePath",
  facts: "Table",
  output: "FilePath",
  *,
  folded: bool = False,
  processes: int | None = None,
) -> "Frame":
  """Counts how often a text names the subjects and objects of facts.

  Args:
    text: files of text (.txt, .jsonl, .parquet, compressed or not), also as a pattern.
    facts: whose subjects and objects are counted.
    output: file of the counts to write (.tsv), which `diagnose` takes as counts.
    folded: whether upper and lower case are alike.
    processes: how many count at a time; None is all cores.

  Returns:
    A row an entity: entity, count, longest, documents, ambiguous.

  Raises:
    UserError: no such text, or a broken file.
  """
  from factshock.facts import corpus_counts, entities, sources
  from factshock.interface import inputs
  from factshock.runtime import tables

  with inputs.tables_as_files() as given:
    path = os.fspath(output)
    counted = entities.entities_of(sources.read_facts(given.needed(facts, "facts")), folded)
    corpus_counts.count(os.fspath(text), counted, path, processes)
    return tables.read_tsv(path)


def _is_model(given: object) -> TypeGuard["Model"]:
  """Returns whether a model is given; its class would load JAX, which tables do not need."""
  return hasattr(given, "loaded")


def _identity(answers: "Table | Model") -> "ModelIdentity":
  """Returns whose answers these are, as far as they say so."""
  if _is_model(answers):
    return answers.identity()
  known = getattr(answers, "attrs", {}).get(_MODEL)
  name = os.fspath(answers) if isinstance(answers, (str, os.PathLike)) else "answers"
  return known or {"model": name, "checkpoint": None, "mixing_weights": None}


def _path(given: "FilePath | None") -> str | None:
  return None if given is None else os.fspath(given)
