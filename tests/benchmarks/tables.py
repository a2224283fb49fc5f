"""What benchmarks print: Markdown tables, and whether a goal is met."""


def table(header, rows):
  """Prints a Markdown table; numbers that are to be formatted come as text."""
  print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
  for row in rows:
    print("| " + " | ".join(map(str, row)) + " |")
  print(flush=True)


def goal(words, met):
  """What to print of a goal."""
  return f"Goal: {words}: **{'met' if met else 'missed'}**.\n"
