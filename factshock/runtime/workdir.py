"""Paths of the files in an experiment's workdir."""

import dataclasses
import os

# The text of the control arms whose documents are left out: one file a text, by its index.
_TEXT = "text_{kind}_{index}.jsonl.gz"


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of a workdir, all below `path`; nothing is read or made."""

  path: str

  @classmethod
  def of(cls, path: "str | os.PathLike[str] | Workdir") -> "Workdir":
    """Returns the Workdir of a folder, or the one given."""
    return path if isinstance(path, Workdir) else cls(os.fspath(path))

  def __fspath__(self) -> str:
    return self.path

  def __str__(self) -> str:
    return self.path

  @property
  def absolute_path(self) -> str:
    """Returns the folder's absolute path, as checkpoints record it."""
    return os.path.abspath(self.path)

  @property
  def config(self) -> str:
    """Returns the path of the file of the experiment's config."""
    return self._join("config.json")

  @property
  def runs(self) -> str:
    """Returns the path of the file with a line for every start of a run."""
    return self._join("runs.jsonl")

  @property
  def diagnosis(self) -> str:
    """Returns the path of the file of the diagnosis."""
    return self._join("diagnosis.json")

  @property
  def report(self) -> str:
    """Returns the path of the report's page."""
    return self._join("report.html")

  @property
  def figures(self) -> str:
    """Returns the folder of the report's pictures."""
    return self._join("figures")

  @property
  def theory(self) -> str:
    """Returns the path of the file of the numbers of a study of the one-layer theory."""
    return self._join("theory.json")

  @property
  def theory_facts(self) -> str:
    """Returns the path of what a study of the one-layer theory computes of each fact."""
    return self._join("facts.npz")

  @property
  def all_facts(self) -> str:
    """Returns the folder of the facts of all seeds."""
    return self._join("facts")

  @property
  def entity_counts(self) -> str:
    """Returns the path of the file of how often the text names each entity, for all seeds."""
    return os.path.join(self.all_facts, "entity_counts.tsv")

  @property
  def all_tokenizers(self) -> str:
    """Returns the folder of the tokenizers of all seeds."""
    return self._join("tokenizer")

  @property
  def all_checkpoints(self) -> str:
    """Returns the folder of all checkpoints."""
    return self._join("checkpoints")

  @property
  def all_predictions(self) -> str:
    """Returns the folder of all predictions files."""
    return self._join("predictions")

  @property
  def profile(self) -> str:
    """Returns the folder of traces of training steps."""
    return self._join("profile")

  @property
  def locks(self) -> str:
    """Returns the folder of the locks by which processes share the stages."""
    return self._join("claims")

  @property
  def corpus_cache(self) -> str:
    """Returns the folder of the tokenised text, unless config.corpus_cache names another."""
    return self._join("corpus")

  def facts(self, seed: int | str, name: str = "") -> str:
    """Returns the path of a file of one seed's facts, or their folder."""
    folder = os.path.join(self.all_facts, str(seed))
    return os.path.join(folder, name) if name else folder

  def fact_set(self, seed: int | str, name: str) -> str:
    """Returns the path of the file of a set of facts of one seed."""
    return self.facts(seed, f"{name}.jsonl")

  def relations(self, seed: int | str) -> str:
    """Returns the path of the relations file of one seed."""
    return self.facts(seed, "relations.jsonl")

  def counts(self, seed: int | str) -> str:
    """Returns the path of the answer counts of one seed."""
    return self.facts(seed, "counts.tsv")

  def best_statements(self, seed: int | str) -> str:
    """Returns the path of the statements that the pretrained model of one seed is best asked by."""
    return self.facts(seed, "best_statements.json")

  def text(
    self,
    seed: int | str,
    kind: str,
    index: int,
  ) -> str:
    """Returns the path of a text of which documents are left out.

    Args:
      seed: of the study.
      kind: of the text, as an arm's `text` says.
      index: of the text among those of the corpus.
    """
    return self.facts(seed, _TEXT.format(kind=kind, index=index))

  def tokenizer(self, seed: int | str) -> str:
    """Returns the folder of one seed's tokenizer."""
    return os.path.join(self.all_tokenizers, str(seed))

  def checkpoints(self, arm: str, seed: int) -> str:
    """Returns the folder of an arm's checkpoints of one seed, a step folder each."""
    return os.path.join(self.all_checkpoints, arm, str(seed))

  def metrics(self, arm: str, seed: int) -> str:
    """Returns the folder of an arm's training metrics of one seed."""
    return self._join("metrics", arm, str(seed))

  def predictions(
    self,
    label: str,
    seed: int,
    split: str,
  ) -> str:
    """Returns the path of the predictions file of one point's label, seed and split."""
    return os.path.join(self.all_predictions, f"{label}.seed{seed}.{split}.jsonl.gz")

  def attention(self, label: str, seed: int) -> str:
    """Returns the path of what the model of one label and seed attends to (answering/probes.py)."""
    return self._join("attention", f"{label}.seed{seed}.npz")

  def lock(self, seed: int, stage: str) -> str:
    """Returns the path of the lock of a stage of one seed."""
    return os.path.join(self.locks, f"{seed}.{stage}")

  def _join(self, *names: str) -> str:
    return os.path.join(self.path, *names)
