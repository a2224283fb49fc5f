"""Answers of a model to facts, as the file holds them that is written."""

from factshock.answering import asking, parts
from factshock.predictions import rows


def answer_facts(checkpoint, facts, output, options, **more):
  """The rows of the predictions file that asking.answer_facts writes."""
  asking.answer_facts(checkpoint, facts, output, options, **more)
  return [row for _, row in rows.read_rows(output)]


def stop_after(monkeypatch, count):
  """Has a run end after some parts, as if it had been killed."""
  write = parts._write_part
  left = [count]

  def writing(path, rows):
    if not left[0]:
      raise KeyboardInterrupt
    left[0] -= 1
    write(path, rows)

  monkeypatch.setattr(parts, "_write_part", writing)
