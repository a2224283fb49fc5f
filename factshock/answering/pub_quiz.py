"""Rankings as result files of lm-pub-quiz.

BEAR, Wiland et al. 2024 (arXiv 2404.04113); `DatasetResults.from_path` reads them. A folder holds
metadata_results.json and a RELATION_results.jsonl of each relation: a row a query, with the
log-probability of every answer of the relation in `pll_scores` and the place of the right one in
`answer_idx`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from factshock.predictions.rows import Row
from factshock.runtime import files
from factshock.runtime.errors import UserError

METADATA = "metadata_results.json"

# Each answer's id.
Space: TypeAlias = dict[str, str]


def write(
  folder: str,
  rows: Sequence[Row],
  *,
  model: str,
  templates: Mapping[str, str] | None = None,
) -> None:
  """Writes rows of a predictions file that hold all candidates of their relations.

  Args:
    folder: the folder to write.
    rows: with subject, relation, object, candidates and, where known, subject_id and object_id.
    model: name of the model, for the metadata.
    templates: the text with [X] and [Y] by which each relation was put to the model.

  Raises:
    UserError: results there already, rows without candidates, candidates that differ within a
      relation or lack the object, or a relation that is no name of a file.
  """
  metadata_path = os.path.join(folder, METADATA)
  if os.path.exists(metadata_path):
    raise UserError(f"{folder}: holds results already; name another folder")
  by_relation: dict[str, list[Row]] = {}
  for row in rows:
    by_relation.setdefault(row["relation"], []).append(row)
  tables = {relation: _table(relation, own) for relation, own in by_relation.items()}
  metadata = {}
  for relation, (space, instances) in tables.items():
    template = (templates or {}).get(relation)
    metadata[relation] = _metadata(space, len(instances), model, template)
    path = os.path.join(folder, f"{relation}_results.jsonl")
    with files.atomic_write(path) as file:
      for instance in instances:
        line = json.dumps(instance, ensure_ascii=False, allow_nan=False)
        file.write(line + "\n")
  with files.atomic_write(metadata_path) as file:  # last: where it stands, all do
    file.write(json.dumps(metadata, ensure_ascii=False, indent=1) + "\n")


def _table(relation: str, rows: Sequence[Row]) -> tuple[Space, list[dict[str, Any]]]:
  """Returns the ids of the answers and the instances of one relation's rows."""
  if os.path.basename(relation) != relation or not relation:
    raise UserError(
      f"relation {relation!r}: expected one that can be the name of a file; rename it"
    )
  names = sorted(name for name, _ in rows[0].get("candidates") or ())
  index_of = {name: index for index, name in enumerate(names)}
  instances = []
  for index, row in enumerate(rows):
    scores = dict(row.get("candidates") or ())
    if sorted(scores) != names or row["object"] not in scores:
      raise UserError(
        f"relation {relation!r}: expected all its {len(names)} candidates, the object among them, "
        f"in every row, got {len(scores)} for {row['subject']!r}; rank the answers "
        "(answer --method=rank) and keep all (--top=0)"
      )
    instances.append(
      {
        "sub_id": row.get("subject_id") or f"{relation}-{index}",
        "sub_label": row["subject"],
        "answer_idx": index_of[row["object"]],
        "pll_scores": [scores[name] for name in names],
      }
    )
  return _space(relation, names, rows), instances


def _space(
  relation: str,
  names: Sequence[str],
  rows: Sequence[Row],
) -> Space:
  """Returns the id of each answer: the facts' own where each has one and no two the same."""
  own = {row["object"]: row["object_id"] for row in rows if row.get("object_id")}
  if len(set(own.values())) == len(own) == len(names):
    return {name: own[name] for name in names}
  return {name: f"{relation}-{index}" for index, name in enumerate(names)}


def _metadata(
  space: Space,
  count: int,
  model: str,
  template: str | None,
) -> dict[str, Any]:
  return {
    "templates": [template] if template else [],
    "template_index": 0,
    "model_name_or_path": str(model),
    "num_original_instances": count,
    "subsampled": None,
    "reduction": "sum",
    "relation_info": {},
    "metric_values": {},
    "answer_space_labels": list(space),
    "answer_space_ids": list(space.values()),
  }
