r"""Extracts a knowledge graph: calibrates answers and writes the triples that can be trusted.

  factshock extract --predictions=test.jsonl --calibration=development.jsonl --output=graph
  factshock extract --model=google/flan-t5-large --queries=queries.jsonl \
      --relations=relations.jsonl --calibration=known.jsonl --output=graph --precision=0.9 \
      --format=tsv,nt

The queries are --queries, a table with columns subject and relation (.jsonl, .csv, .tsv, .parquet;
a facts file will do; subject_id goes into the graph); or --subjects, names one a line or such a
table, each asked every relation of --ask. --model, a checkpoint of factshock or a HuggingFace
model, answers them, each (subject, relation) once: with --method=rank the candidates of a relation
are the objects of --answer_set alone (a facts file; by default all that are known: those of
--calibration, --shot_facts and the facts of the checkpoint's workdir; their number is printed);
greedy, beam (--beams) and votes (--samples answers drawn, their shares the probabilities) generate
answers. Or the answers are --predictions, of any program, each row with subject, relation,
prediction and score (log-probability) or candidates.

--calibration are facts that are apart from the queries and from the facts finetuned on
(--finetuning_facts, checked); with --predictions, the same model's predictions on them. A query
with several rows has several right answers; with object null, none. From them comes the
probability that an answer is right (isotonic or logistic, for each relation, drawn to the pooled
curve where data are few), and the threshold: with --rule=precision the lowest at which precision
on new queries of this kind is at least --precision but for a chance of 10%; with --rule=f1, what
has the greatest expected F1 of each query. Answers given far more often than calibration and
--entity_counts support are over-predicted: their confidence is lowered by how often such answers
were right. --prior_correction=counts, or the predictions of the model before finetuning on queries
and calibration together, moves answers back to these frequencies first (as factshock.correct). The
relations file may give type (1-1, N-1, N-M), inverse, symmetric, subject_type, object_type;
--types the entities' types (.tsv).

Writes OUTPUT/triples.jsonl (all candidates with their confidence), the --format files of the
accepted ones, extraction.json (last), calibration.json and report.html. A folder that holds
extraction.unfinished is at work or was interrupted; the same command makes it again. One that holds
an extraction, a report.html or answers is refused without --overwrite; what was extracted before
then stays until the new extraction is whole, and after an error.

What --model answers is kept in OUTPUT/predictions.jsonl.gz.parts, 2,048 questions a part, until the
extraction is whole: after an interruption or an error the same command goes on, with the answers
that are there, and --overwrite asks anew. Flags of what follows (--precision, --format ...) may be
others then; with other questions the folder is refused. The same command started several times, on
machines that see one folder, shares the questions; one process extracts, and the others end when it
has. Queries of a file are read as a stream. Of a served model (docs/served.md) requests and tokens
are printed, and stored in extraction.json.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from factshock.predictions import columns
from factshock.runtime import answer_dtypes, console, flag_names, outputs
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from factshock.facts.queries import QueryStream
  from factshock.knowledge_graph import pipeline
  from factshock.types import Relation


# Flags of how a model is asked, of which a predictions file knows nothing.
_FLAGS_OF_ASKING = (
  "config",
  "tokenizer",
  "method",
  "prompt",
  "shots",
  "shot_facts",
  "beams",
  "samples",
  "max_tokens",
  "answer_dtype",
)


def define_flags() -> None:
  """Defines the flags; called only where the verb runs as a program."""
  from factshock.runtime import config_files

  config_files.define_flag("Config the checkpoint was trained with; may be left out.")
  flags.DEFINE_string(
    "model",
    None,
    "Model to ask: a checkpoint's folder, a HuggingFace model, a .gguf file, or "
    "endpoint:URL?model=NAME for one that is served.",
  )
  flags.DEFINE_string(
    "predictions", None, "A predictions file in place of a model, in any format of diagnose."
  )
  columns.define_flag()
  flags.DEFINE_string("queries", None, "What to ask: a table with columns subject and relation.")
  flags.DEFINE_string(
    "subjects",
    None,
    "Subjects to ask every relation of --ask about: .txt, a name a line, or a table.",
  )
  flags.DEFINE_list(
    "ask", None, "Relations to ask --subjects about; default: all of the relations file."
  )
  flags.DEFINE_string("output", None, "Folder to write.")
  outputs.define_flag()
  flags.DEFINE_list(
    "format",
    ["tsv"],
    "Formats to write beside triples.jsonl: tsv, tsv_confidence, openke, nt, nq, ttl, "
    "ttl_rdf12, neo4j, networkx, lm_kbc; see README.md.",
  )
  _define_question_flags()
  _define_decision_flags()
  flags.mark_flags_as_required(["calibration", "output"])
  flag_names.rename("checkpoint", "model")
  flag_names.rename("candidates", "answer_set")


def _define_question_flags() -> None:
  """Defines the flags of how a model is asked."""
  flags.DEFINE_enum("method", "rank", ["rank", "greedy", "beam", "votes"], "How a model is asked.")
  flags.DEFINE_string(
    "answer_set",
    None,
    "Facts whose objects alone --method=rank compares; of every answer they tell ids and aliases.",
  )
  flags.DEFINE_enum("prompt", None, ["cloze", "question"], "Default: config.finetune.prompt.")
  answer_dtypes.define_flag()
  flags.DEFINE_integer("shots", 0, "Answered questions put before each one.", lower_bound=0)
  flags.DEFINE_string("shot_facts", None, "Facts to draw the shots from.")
  flags.DEFINE_integer("beams", 4, "Hypotheses of --method=beam.", lower_bound=1)
  flags.DEFINE_integer("samples", 16, "Samples of --method=votes.", lower_bound=1)
  flags.DEFINE_integer("max_tokens", 16, "Longest generated answer, in tokens.", lower_bound=1)
  flags.DEFINE_string(
    "tokenizer", None, "Folder of the tokenizer; default: the checkpoint's workdir's."
  )
  flags.DEFINE_string("relations", None, "Relations file; default: the checkpoint's workdir's.")


def _define_decision_flags() -> None:
  """Defines the flags of how answers are calibrated and accepted."""
  flags.DEFINE_string(
    "calibration",
    None,
    "Facts to calibrate on; with --predictions, the model's predictions on them.",
  )
  flags.DEFINE_enum(
    "rule", "precision", ["precision", "f1"], "What decides which answers are accepted."
  )
  flags.DEFINE_float(
    "precision",
    0.9,
    "Precision that --rule=precision promises. A lower one may by chance accept slightly fewer, as "
    "a promise is tested at a few thresholds, whose places depend on it.",
    lower_bound=0.01,
    upper_bound=0.999,
  )
  flags.DEFINE_enum(
    "calibrator",
    None,
    ["isotonic", "platt"],
    "Kind of calibration curve; default: the better of both on calibration facts kept apart.",
  )
  flags.DEFINE_string(
    "finetuning_facts", None, "Facts finetuned on: calibration must be apart from them."
  )
  flags.DEFINE_string(
    "entity_counts",
    None,
    "How often pretraining names each answer: .tsv of entity and count, or wordfreq:en.",
  )
  flags.DEFINE_string(
    "prior_correction", None, '"counts" (of --entity_counts), or predictions before finetuning.'
  )
  flags.DEFINE_string("types", None, "Types of entities: .tsv with columns entity and type.")


def main(argv: Sequence[str]) -> None:
  """Checks the flags, extracts, and prints what was extracted and where it is."""
  del argv
  from factshock.interface import extracting
  from factshock.knowledge_graph import formats, pipeline

  values = flags.FLAGS
  if bool(values.model) == bool(values.predictions):
    given = "both" if values.model else "neither"
    raise UserError(f"expected one of --model and --predictions, got {given}; see --help")
  if values.model and values.columns:
    raise UserError("--columns: only with --predictions, whose columns it names")
  ignored = [name for name in _FLAGS_OF_ASKING if values[name].present]
  if values.predictions and ignored:
    raise UserError(
      f"--{', --'.join(ignored)}: only with --model, as nothing is asked with --predictions"
    )
  formats.check_names(values.format)
  if values.prior_correction == "counts" and not values.entity_counts:
    raise UserError("--prior_correction=counts needs --entity_counts=FILE")
  extracting.check_new(values.output, asks=not values.predictions, overwrite=values.overwrite)
  relations = extracting.find_relations(
    values.relations,
    (values.queries, values.calibration),
    None if values.predictions else _relations_of_model,
  )
  queries = extracting.find_queries(values.queries, values.subjects, values.ask, relations)
  options = pipeline.Options(
    model=_model_identity(),
    rule=values.rule,
    precision=values.precision,
    graph_formats=tuple(values.format),
    calibrator=values.calibrator,
    relations=relations,
    counts=values.entity_counts,
    types=values.types,
    finetuning=values.finetuning_facts,
    answer_set=values.answer_set,
    queries=extracting.keys_of(queries) if values.predictions else None,
    prior_correction=values.prior_correction,
    columns=columns.given(),
  )
  if values.predictions:
    given = values.predictions, values.calibration
    summary = extracting.extract(values.output, *given, options, values.overwrite)
  else:
    summary = _extract_by_asking(queries, relations, options)
  if summary is None:
    print(f"extracted by another process: {values.output}")
  else:
    print("\n".join(pipeline.terminal_lines(summary, values.output)))


def _relations_of_model() -> str:
  """Returns the path of the relations of the checkpoint's workdir."""
  from factshock.checkpoints import loading

  return loading.relations_path(flags.FLAGS.model)


def _extract_by_asking(
  queries: "QueryStream | None",
  relations: "Mapping[str, Relation]",
  options: "pipeline.Options",
) -> "pipeline.Summary | None":
  """Asks the model the queries and the calibration facts, and extracts.

  Returns:
    The summary; None where another process has extracted.
  """
  from factshock.answering import candidates, methods
  from factshock.answering.prompting import Prompting
  from factshock.answering.queries import Questions
  from factshock.interface import asking, extracting
  from factshock.runtime import interruption

  values = flags.FLAGS
  questions = Questions(*extracting.questions(values.calibration, queries), relations)
  how = candidates.QueryOptions(
    method=values.method,
    prompting=Prompting(values.prompt, values.shots, values.shot_facts),
    max_tokens=values.max_tokens,
    beams=values.beams,
    samples=values.samples,
  )
  dtype = values.answer_dtype
  opened = functools.partial(
    methods.open_model, values.model, values.config, values.tokenizer, dtype
  )
  with interruption.signals_end_run():
    done = asking.extract(opened, questions, values.output, options, how, values.overwrite)
  if done is None:
    return None
  summary, sample = done
  if dtype not in (None, sample.own_dtype) and values.method != "votes":
    again = methods.open_model(values.model, values.config, values.tokenizer)
    sample.say_how_many_are_equal(*again, dtype)
  return summary


def _model_identity() -> "pipeline.ModelIdentity":
  """Returns the model's name, the digest of its weights, and how it was mixed."""
  values = flags.FLAGS
  if values.predictions:
    return {"model": values.predictions, "checkpoint": None, "mixing_weights": None}
  from factshock.answering import methods

  return {"model": values.model, **methods.identity_of(values.model)}


if __name__ == "__main__":
  define_flags()
  console.run(main)
