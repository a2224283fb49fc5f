"""Results of the Python API: a diagnosis and a knowledge graph, as tables and pages."""

import functools
import html
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factshock.diagnosis import frames
from factshock.knowledge_graph import batches, canonical, formats, pipeline
from factshock.report import folder as folder_files
from factshock.report import page, reading, summary
from factshock.runtime import files, tables
from factshock.runtime.errors import UserError
from factshock.runtime.tables import Frame

if TYPE_CHECKING:
  import networkx

_HEIGHT = 720  # pixels of a page in a cell
REPORT = "report.html"


class Page:
  """Page of HTML that a notebook shows in a cell.

  Attributes:
    html: the whole page, which loads nothing.
  """

  def __init__(self, source: str) -> None:
    """Takes the whole page."""
    self.html = source

  def save(self, path: str | os.PathLike[str]) -> str:
    """Writes the page to a file and returns its path."""
    with files.atomic_write(path) as file:
      file.write(self.html)
    return os.fspath(path)

  def _repr_html_(self) -> str:
    """Returns the page in a frame of its own, so that its style stays within."""
    return (
      f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" '
      f'style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
    )

  def __repr__(self) -> str:
    return f"<report of {len(self.html) // 1024:,} kB; .save(path) writes it>"


class Diagnosis:
  """Diagnosis of arms: tables, sentences, and the page about them.

  Attributes:
    data: what diagnosis.json holds; its `notes` define each number.
  """

  def __init__(self, data: Mapping[str, Any]) -> None:
    """Takes what diagnosis.json holds."""
    self.data = data

  @functools.cached_property
  def arms(self) -> Frame:
    """Row for each arm: every measure with its interval (NAME, NAME_low, NAME_high)."""
    return frames.arms(self.data)

  @functools.cached_property
  def comparisons(self) -> Frame:
    """Row for each paired comparison of two arms."""
    return frames.comparisons(self.data)

  @functools.cached_property
  def entities(self) -> Frame:
    """Row for each answer: how often it is right, finetuned on, and predicted by each arm."""
    return frames.entities(self.data)

  @functools.cached_property
  def relations(self) -> Frame:
    """Row for each arm and relation: the share of right answers."""
    return frames.relations(self.data)

  @property
  def sentences(self) -> list[str]:
    """Findings in words, most important first."""
    parts = summary.sentences(reading.tidy(self.data))
    return [f"{about}: {sentence}" for about, sentence in parts]

  @property
  def verdict(self) -> str | None:
    """Verdict on prior and access; None where no finetuned and corrected arm were named."""
    verdict = self.data.get("verdict")
    return verdict["text"] if verdict else None

  def report(self) -> Page:
    """Returns the page about the diagnosis."""
    return Page(page.html(self.data))

  def save(self, folder: str | os.PathLike[str]) -> str:
    """Writes report.html, diagnosis.json and the tables as csv; returns the folder."""
    folder_files.write(self.data, folder)
    return os.fspath(folder)

  def __repr__(self) -> str:
    return "\n".join(folder_files.lines(self.data))


class Graph:
  """Knowledge graph: the triples that were accepted, and all that there were to choose from.

  Attributes:
    folder: where triples.jsonl, the graph's files and report.html stand.
    summary: what extraction.json holds.
  """

  def __init__(
    self,
    folder: str,
    summary: Mapping[str, Any],
    kept: "tempfile.TemporaryDirectory[str] | None" = None,
  ) -> None:
    """Takes an extraction's folder; one that is `kept` goes with the graph."""
    self.folder = folder
    self.summary = summary
    self._kept = kept

  @functools.cached_property
  def candidates(self) -> Frame:
    """Row for each candidate triple, with its confidence and whether it was accepted."""
    rows = canonical.read(os.path.join(self.folder, canonical.FILE))
    return tables.frame([dict(row) for row in rows], canonical.KEYS)

  @functools.cached_property
  def triples(self) -> Frame:
    """Row for each accepted triple, the surest first."""
    every = self.candidates
    accepted: Frame = every.loc[every["accepted"].astype(bool)]
    order = accepted["confidence"].to_numpy(float).argsort(kind="stable")[::-1]
    return accepted.iloc[order].reset_index(drop=True)

  @property
  def sentences(self) -> list[str]:
    """Findings in words: how many triples, and what is promised of them."""
    return [line.strip() for line in pipeline.summary_lines(dict(self.summary), self.folder)]

  def to_networkx(self) -> "networkx.MultiDiGraph":
    """Returns the accepted triples as a graph of networkx: an edge a triple, its key the relation.

    Raises:
      UserError: networkx is not installed.
    """
    try:
      import networkx  # noqa: PLC0415 - an extra
    except ImportError as error:
      raise UserError(
        f"to_networkx needs networkx ({error}): pip install 'factshock[graph]'"
      ) from error
    with tempfile.TemporaryDirectory(prefix="factshock-") as folder:
      (path,) = self.write("networkx", folder)
      with open(path, encoding="utf-8") as file:
        return networkx.node_link_graph(json.load(file), edges="edges")

  def write(self, graph_format: str, folder: str | os.PathLike[str]) -> Sequence[str]:
    """Writes the accepted triples in a format, such as "nt" or "neo4j"; returns the paths.

    Args:
      graph_format: one of formats.FORMATS.
      folder: where to write; made where it is missing.

    Raises:
      UserError: there is no such format, or the folder cannot be written.
    """
    source = os.path.join(self.folder, canonical.FILE)
    run = self.summary["run"]
    (written,) = formats.write([graph_format], os.fspath(folder), batches.read(source), run)
    return written.paths

  def report(self) -> Page:
    """Returns the page about the extraction."""
    return Page(files.read_text(os.path.join(self.folder, REPORT)))

  def __repr__(self) -> str:
    return "\n".join(self.sentences)
