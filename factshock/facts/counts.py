"""How often a text names each answer: finding names in text, and the file of entity counts."""

import collections
import re
from typing import NamedTuple

from factshock import files
from factshock.console import UserError


class MentionIndex(NamedTuple):
  """Names, ready for `find_mentions`."""
  names: frozenset
  lengths: dict  # first word (or first character, where it is none) of a name -> name lengths, longest first
  pattern: re.Pattern  # where a name can begin


def mention_index(names):
  """Makes the index of some names (strings, repeats allowed) for `find_mentions`.

  Raises:
    ValueError: an empty name.
  """
  names = frozenset(names)
  if "" in names:
    raise ValueError("expected non-empty names, got an empty one")
  lengths = collections.defaultdict(set)
  for name in names:
    lengths[_first(name)].add(len(name))
  others = "".join(sorted(re.escape(first) for first in lengths if not re.match(r"\w", first)))
  pattern = re.compile(rf"\w+|[{others}]" if others else r"\w+")
  return MentionIndex(names, {first: sorted(each, reverse=True) for first, each in lengths.items()}, pattern)


def find_mentions(text, index):
  """All mentions of the index's names in a text, from left to right: list of (start, end, name).

  A mention has no word character (regex \\w) right before or after it. Case-sensitive; where several names
  begin at one place the longest is taken; mentions do not overlap, earlier ones win.
  """
  mentions, free = [], 0
  names, lengths, size = index.names, index.lengths, len(text)
  for match in index.pattern.finditer(text):
    candidates = lengths.get(match.group())
    if candidates is None:
      continue
    start = match.start()
    # A word begins at a boundary by itself; a sign may stand right after a word.
    if start < free or (start and _is_word(text[start - 1])):
      continue
    for length in candidates:
      end = start + length
      name = text[start:end]
      # At the end of the text a slice may come out shorter than asked for.
      if name in names and (end == size or (end < size and not _is_word(text[end]))):
        mentions.append((start, end, name))
        free = end
        break
  return mentions


def count_answers(lines, facts):
  """Counts the mentions of every answer of the facts in some text.

  Args:
    lines: iterable of strings; a mention lies within one.
    facts: facts; their objects are the names, those of all relations together, so that "York" is not
      counted within "New York" where both are answers.

  Returns:
    Dict (relation, object) -> mentions, 0 where there are none. An answer of several relations has the
    same count in each: a mention does not tell its relation.
  """
  index = mention_index(fact["object"] for fact in facts)
  mentions = collections.Counter(name for line in lines for _, _, name in find_mentions(line, index))
  return {(fact["relation"], fact["object"]): mentions[fact["object"]] for fact in facts}


def read_counts(path):
  """Reads entity counts, a .tsv[.gz] with the columns `entity`, `count` and `relation` in any order.

  Returns:
    Dict (relation, entity) -> count. Without a column `relation` it is "" in every key: counts that hold in
    any relation, which `count_of` knows how to look up.

  Raises:
    UserError: a missing column, a malformed line, a count that is no whole number from 0 on, an entity
      twice in a relation, or an empty file; names file and line.
  """
  counts, rows = {}, ((number, line.split("\t")) for number, line in files.lines(path) if line)
  _, header = next(rows, (1, []))
  if not {"entity", "count"} <= set(header) or len(set(header)) != len(header):
    raise UserError(f"{path}:1: expected a header with the columns entity, count and, if wanted, relation, "
                    f"separated by tabs, got {header}")
  for number, cells in rows:
    if len(cells) != len(header):
      raise UserError(f"{path}:{number}: expected {len(header)} cells as in the header, got {len(cells)}: "
                      f"{cells[:8]}")
    row = dict(zip(header, cells))
    key = (row.get("relation", ""), row["entity"])
    if not row["entity"] or not re.fullmatch("[0-9]+", row["count"]):
      raise UserError(f"{path}:{number}: expected an entity and a whole number from 0 on, got "
                      f"{row['entity']!r} and {row['count']!r}")
    if key in counts:
      raise UserError(f"{path}:{number}: expected each entity once in a relation, got {key[1]!r} again in "
                      f"{key[0]!r}")
    counts[key] = int(row["count"])
  if not counts:
    raise UserError(f"{path}: expected at least one count, got none")
  return counts


def write_counts(path, counts):
  """Writes counts (dict (relation, entity) -> int) as tsv, by relation, the most frequent first.

  Raises:
    UserError: an entity or relation with a tab or newline in it.
  """
  with files.writing(path) as file:
    file.write("entity\tcount\trelation\n")
    for (relation, entity), count in sorted(counts.items(), key=_order):
      if re.search(r"[\t\n\r]", relation + entity):
        raise UserError(f"{path}: expected names without tab or newline, got {entity!r} in relation "
                        f"{relation!r}")
      file.write(f"{entity}\t{count}\t{relation}\n")


def count_of(counts, relation, entity):
  """The count of an entity in a relation (or in any, where the counts name no relations); 0 where unknown."""
  return counts.get((relation, entity), counts.get(("", entity), 0))


def _order(item):
  (relation, entity), count = item
  return relation, -count, entity


def _first(name):
  match = re.match(r"\w+", name)
  return match.group() if match else name[0]


def _is_word(letter):
  return letter.isalnum() or letter == "_"
