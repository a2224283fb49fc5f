r"""Extracts a knowledge graph: asks a model (or takes its predictions), calibrates, and writes the triples one can trust.

  python -m factshock.extract --predictions=test.jsonl --calibration=development.jsonl --output=graph
  python -m factshock.extract --checkpoint=google/flan-t5-large --queries=queries.jsonl --relations=relations.jsonl \
      --calibration=known.jsonl --output=graph --precision=0.9 --format=tsv,nt

What is asked: --queries, a table with columns subject and relation (.jsonl, .csv, .tsv, .parquet; a facts file will do; subject_id
goes into the graph); or --subjects, names one a line or such a table, each asked every relation of --ask. --checkpoint is a checkpoint of
ours or a HuggingFace model. With --method=rank the candidates of a relation are the objects of --candidates (a facts file; by default
those of --calibration); greedy, beam (--beams) and votes (--samples answers drawn, their shares the probabilities) generate answers. Or
--predictions, of any program, each row with subject, relation, prediction and score (log-probability) or candidates.

--calibration are facts that are apart from the queries and from the facts finetuned on (--finetuning_facts, checked); with --predictions, the
same model's predictions on them. A query with several rows has several right answers; with object null, none. From them comes the
probability that an answer is right (isotonic or logistic, for each relation, drawn to the pooled curve where data are few), and the
threshold: with --rule=precision the lowest at which precision on new queries of this kind is at least --precision but for a chance of
10%; with --rule=f1, what has the greatest expected F1 of each query. Answers given far more often than calibration and --entity_counts
support are over-predicted: their confidence is lowered by what they were worth. --prior_correction=counts, or the predictions of the
model before finetuning on queries and calibration together, moves answers back to these frequencies first (as factshock.correct).
The relations file may give type (1-1, N-1, N-M), inverse, symmetric, subject_type, object_type; --types the entities' types (.tsv).

Writes OUTPUT/triples.jsonl (all candidates with their confidence), the --format files of the accepted ones, extraction.json,
calibration.json and report.html.
"""

from absl import flags
from ml_collections import config_flags

from factshock.runtime import console
from factshock.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file the checkpoint was trained with; may be left out."
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "A checkpoint's folder, or a HuggingFace model."
)
_PREDICTIONS = flags.DEFINE_string(
  "predictions", None, "A predictions file in place of a model: .jsonl or .jsonl.gz."
)
_QUERIES = flags.DEFINE_string(
  "queries", None, "What to ask: a table with columns subject and relation."
)
_SUBJECTS = flags.DEFINE_string(
  "subjects",
  None,
  "Subjects to ask every relation of --ask about: .txt, a name a line, or a table.",
)
_ASK = flags.DEFINE_list(
  "ask", None, "Relations to ask --subjects about; default: all of the relations file."
)
_CALIBRATION = flags.DEFINE_string(
  "calibration", None, "Facts to calibrate on; with --predictions, the model's predictions on them."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; must not hold an extraction.")
_RULE = flags.DEFINE_enum(
  "rule", "precision", ["precision", "f1"], "What decides which answers are accepted."
)
_PRECISION = flags.DEFINE_float(
  "precision", 0.9, "Precision that --rule=precision promises.", lower_bound=0.01, upper_bound=0.999
)
_FORMAT = flags.DEFINE_list(
  "format",
  ["tsv"],
  "Formats to write beside triples.jsonl: tsv, tsv_confidence, openke, nt, nq, ttl, "
  "neo4j, networkx, lm_kbc; see README.md.",
)
_METHOD = flags.DEFINE_enum(
  "method", "rank", ["rank", "greedy", "beam", "votes"], "How a model is asked."
)
_CANDIDATES = flags.DEFINE_string(
  "candidates", None, "Facts whose objects are the candidates of --method=rank."
)
_PROMPT = flags.DEFINE_enum(
  "prompt", None, ["cloze", "question"], "Default: config.finetune.prompt."
)
_SHOTS = flags.DEFINE_integer("shots", 0, "Answered questions put before each one.", lower_bound=0)
_SHOT_FACTS = flags.DEFINE_string("shot_facts", None, "Facts to draw the shots from.")
_BEAMS = flags.DEFINE_integer("beams", 4, "Hypotheses of --method=beam.", lower_bound=1)
_SAMPLES = flags.DEFINE_integer("samples", 16, "Samples of --method=votes.", lower_bound=1)
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", 16, "Longest generated answer, in tokens.", lower_bound=1
)
_CALIBRATOR = flags.DEFINE_enum(
  "calibrator",
  None,
  ["isotonic", "platt"],
  "Default: the better of both on calibration facts kept apart.",
)
_FINETUNING = flags.DEFINE_string(
  "finetuning_facts", None, "Facts finetuned on: calibration must be apart from them."
)
_ENTITY_COUNTS = flags.DEFINE_string(
  "entity_counts", None, "How often pretraining names each answer: .tsv of entity and count."
)
_CORRECTION = flags.DEFINE_string(
  "prior_correction", None, '"counts" (of --entity_counts), or predictions before finetuning.'
)
_TYPES = flags.DEFINE_string("types", None, "Types of entities: .tsv with columns entity and type.")
_TOKENIZER = flags.DEFINE_string(
  "tokenizer", None, "Folder of the tokenizer; default: the checkpoint's workdir's."
)
_RELATIONS = flags.DEFINE_string(
  "relations", None, "Relations file; default: the checkpoint's workdir's."
)
flags.mark_flags_as_required(["calibration", "output"])


def main(_):
  """Checks the flags, extracts, says what was found and where it is."""
  from factshock.knowledge_graph import formats, pipeline

  if bool(_CHECKPOINT.value) == bool(_PREDICTIONS.value):
    raise UserError(
      "expected one of --checkpoint and --predictions, got "
      + ("both" if _CHECKPOINT.value else "neither")
      + "; see --help"
    )
  formats.check_names(_FORMAT.value)
  if _CORRECTION.value == "counts" and not _ENTITY_COUNTS.value:
    raise UserError("--prior_correction=counts needs --entity_counts=FILE")
  pipeline.check_folder(_OUTPUT.value)
  relations = _relations()
  asked = (_PREDICTIONS.value, _CALIBRATION.value) if _PREDICTIONS.value else _asked(relations)
  summary = pipeline.extract(
    _OUTPUT.value,
    *asked,
    model=_model(),
    rule=_RULE.value,
    precision=_PRECISION.value,
    graph_formats=_FORMAT.value,
    calibrator=_CALIBRATOR.value,
    relations=relations,
    counts=_ENTITY_COUNTS.value,
    types=_TYPES.value,
    finetuning=_FINETUNING.value,
    candidates=_CANDIDATES.value,
    queries=_queries(relations) if _PREDICTIONS.value else None,
    prior_correction=_CORRECTION.value,
  )
  print("\n".join(pipeline.lines(summary, _OUTPUT.value)))


def _relations():
  """{name: row} of --relations, of a data set asked about, or of the checkpoint's workdir; {} with predictions and none of these."""
  from factshock.facts import sources

  for spec in (_RELATIONS.value, _QUERIES.value, _CALIBRATION.value):
    if spec and (spec == _RELATIONS.value or sources.is_source(spec)):
      found = sources.read_relations(spec)
      if found:
        return found
  if _PREDICTIONS.value:
    return {}
  from factshock.answering import asking

  return sources.read_relations(asking.relations_path(_CHECKPOINT.value))


def _queries(relations):
  """The rows of --queries, or of --subjects times relations; None without either."""
  from factshock.facts import queries as query_room

  if _QUERIES.value and _SUBJECTS.value:
    raise UserError("expected one of --queries and --subjects, got both; see --help")
  if _QUERIES.value:
    return query_room.read(_QUERIES.value)
  unknown = set(_ASK.value or ()) - set(relations)
  if unknown:
    raise UserError(
      f"--ask: expected relations among {', '.join(sorted(relations)) or 'those of --relations'}, got {', '.join(sorted(unknown))}"
    )
  if not _SUBJECTS.value:
    return None
  if not relations:
    raise UserError(
      "--subjects needs --relations=FILE: every relation of it, or of --ask, is asked"
    )
  return query_room.cross(_SUBJECTS.value, _ASK.value or list(relations))


def _asked(relations):
  """Asks the checkpoint; the paths of the predictions on queries and calibration facts, which stay in the output folder."""
  import os

  from factshock.answering import candidates
  from factshock.facts import queries as query_room
  from factshock.facts import sources
  from factshock.knowledge_graph import answers

  queries = _queries(relations)
  if queries is None:
    raise UserError("expected one of --queries and --subjects, got neither; see --help")
  known = query_room.read(_CALIBRATION.value)
  answers.check_apart(known, queries, "queries")
  outputs = [
    os.path.join(_OUTPUT.value, f"{name}.jsonl.gz")
    for name in ("predictions", "calibration_predictions")
  ]
  candidates.ask(
    _CHECKPOINT.value,
    queries,
    known,
    outputs,
    config=_CONFIG.value,
    method=_METHOD.value,
    prompt=_PROMPT.value,
    shots=_SHOTS.value,
    candidates=sources.read_facts(_CANDIDATES.value) if _CANDIDATES.value else None,
    shot_facts=_SHOT_FACTS.value,
    tokenizer=_TOKENIZER.value,
    relations=relations,
    beams=_BEAMS.value,
    samples=_SAMPLES.value,
    max_tokens=_MAX_TOKENS.value,
    listed_all=bool(_CORRECTION.value),
  )
  return outputs


def _model():
  """What is known of the model: its name, the digest of its weights, and how it was mixed."""
  if _PREDICTIONS.value:
    return {"model": _PREDICTIONS.value, "checkpoint": None, "mixing_weights": None}
  from factshock.answering import asking

  return {"model": _CHECKPOINT.value, **asking.identity_of(_CHECKPOINT.value)}


if __name__ == "__main__":
  console.run(main)
