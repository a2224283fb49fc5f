"""Works out which wheels a machine lacks; launch/wheels.sh calls it. Needs Python alone.

python tests/gpu/wheels.py pins HAVE             the versions that are there, to keep to
python tests/gpu/wheels.py missing HAVE NEEDED   NAME==VERSION of what is not there
python tests/gpu/wheels.py sizes FOLDER          what is in a folder, and whether it is small enough
"""

import os
import re
import sys

# Bytes that can be carried to a machine at once, beside the code itself.
MOST = 60_000_000


def pins(have: str) -> list[str]:
  """Returns NAME==VERSION of the packages of a list whose versions it says."""
  return [entry for entry in _entries(have) if "==" in entry]


def missing(have: str, needed: str) -> list[str]:
  """Returns what a project needs and a machine lacks, by name.

  Args:
    have: path of the list of packages that are there, by lines or commas, `#` before comments.
    needed: path of what `uv pip compile` wrote, NAME==VERSION in each line.

  Returns:
    NAME==VERSION of each.
  """
  present = {_normal(entry.split("==")[0]) for entry in _entries(have)}
  lacking = [entry for entry in pins(needed) if _normal(entry.split("==")[0]) not in present]
  return sorted(lacking, key=str.lower)


def sizes(folder: str) -> tuple[list[str], str | None]:
  """Returns a line a wheel, largest first, and the total; and an error where that is too much."""
  by_name: dict[str, int] = {}
  for name in os.listdir(folder):
    if name.endswith(".whl"):
      by_name[name] = os.path.getsize(os.path.join(folder, name))
  names = sorted(by_name, key=lambda name: -by_name[name])
  lines = [f"{by_name[name] / 1e6:8.2f} MB  {name}" for name in names]
  total = sum(by_name.values())
  lines.append(f"{total / 1e6:8.2f} MB  in all")
  if total <= MOST:
    return lines, None
  biggest = f"{names[0]} ({by_name[names[0]] / 1e6:.1f} MB)"
  error = f"expected at most {MOST / 1e6:.0f} MB of wheels, got {total / 1e6:.1f} MB; the biggest: "
  return lines, error + biggest


def main(arguments: list[str]) -> int:
  """Prints what is asked for; returns the exit code."""
  what, *paths = arguments
  if what == "pins":
    print("\n".join(pins(*paths)))
  elif what == "missing":
    print("\n".join(missing(*paths)))
  else:
    lines, error = sizes(*paths)
    print("\n".join(lines))
    if error:
      print(f"error: {error}", file=sys.stderr)
      return 2
  return 0


def _entries(path: str) -> list[str]:
  """Returns the entries of a list of packages."""
  with open(path, encoding="utf-8") as file:
    lines = [line.split("#")[0] for line in file]
  return ",".join(lines).replace(",", " ").split()


def _normal(name: str) -> str:
  """Returns a package's name as all its spellings have it (PEP 503)."""
  return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
