"""Answers of a model to facts, as the file holds them that is written."""

from factshock.answering import asking
from factshock.predictions import rows


def answer_facts(checkpoint, facts, output, options, **more):
  """The rows of the predictions file that asking.answer_facts writes."""
  asking.answer_facts(checkpoint, facts, output, options, **more)
  return [row for _, row in rows.read_rows(output)]
