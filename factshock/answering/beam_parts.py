"""Answering as an Apache Beam pipeline: its elements are parts, its workers have a model each.

Each part is written where parts.py expects it, on a file system that the workers and the launching
process share.
"""

import dataclasses
import importlib
import os
from collections.abc import Sequence
from typing import Any

from factshock.answering import preparing

# apache-beam is an extra, and untyped.
beam: Any = importlib.import_module("apache_beam")
PipelineOptions: Any = importlib.import_module(
  "apache_beam.options.pipeline_options"
).PipelineOptions
Shared: Any = importlib.import_module("apache_beam.utils.shared").Shared


def elsewhere(runner: str, options: Sequence[str]) -> preparing.Elsewhere:
  """Returns what has parts answered by a pipeline.

  Args:
    runner: a Beam runner's name.
    options: "--name=value" for it.

  Whatever the runner raises is passed on.
  """

  def answer(job: preparing.Job, indices: Sequence[int]) -> None:
    job = dataclasses.replace(
      job, output=os.path.abspath(job.output), source=_seen_from_anywhere(job.source)
    )
    all_options = PipelineOptions([f"--runner={runner}", *options])
    with beam.Pipeline(options=all_options) as pipeline:
      _ = (
        pipeline
        | "parts" >> beam.Create(indices)
        | "spread" >> beam.Reshuffle()
        | "answer" >> beam.ParDo(_Answer(job))
      )

  return answer


def _seen_from_anywhere(source: str) -> str:
  """Returns the path of a model from the root; a hub id or an endpoint as it is."""
  return os.path.abspath(source) if os.path.exists(source) else source


class _Answer(beam.DoFn):
  """Answers parts; the threads of a worker share a model."""

  def __init__(self, job: preparing.Job) -> None:
    self.job = job
    self.shared = Shared()

  def setup(self) -> None:
    self.worker = self.shared.acquire(self.job.worker)

  def process(self, index: int) -> None:
    self.worker.answer(index)
