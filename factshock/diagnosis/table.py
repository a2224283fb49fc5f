"""A diagnosis, and the quality of a calibration, as lines for the terminal."""

from factshock.diagnosis import verdict

COLUMNS = (  # title (None: the criterion), keys into an arm, whether with its interval
  (None, ("right",), True),
  ("macro", ("macro_right",), False),
  ("F1", ("f1",), False),
  ("hits@5", ("hits@5",), False),
  ("known kept", ("known_kept",), False),
  ("shock", ("shock", "shock"), True),
  ("slope", ("shock", "slope"), False),
  ("rare seen", ("shock", "ratio", "rare_seen"), False),
  ("common unseen", ("shock", "ratio", "common_unseen"), False),
  ("range shift", ("shock", "range_shift"), False),
)
CRITERIA = {"exact_match": "exact match", "contains": "contains match"}


def lines(diagnosis):
  """Lines of two tables: the arms, and the paired comparisons."""
  arms = diagnosis["arms"]
  seeds = len(diagnosis["seeds"])
  columns = [column for column in COLUMNS if any(_at(arm, column[1]) for arm in arms.values())]
  criterion = CRITERIA[diagnosis["criterion"]]
  rows = [["arm", "queries", *(title or criterion for title, _, _ in columns)]]
  rows += [
    [label, str(arm["queries"]), *(estimate(_at(arm, keys), full) for _, keys, full in columns)]
    for label, arm in arms.items()
  ]
  found = [
    f"Arms ({seeds} seed{'' if seeds == 1 else 's'}, {100 * diagnosis['confidence']:g}% bootstrap "
    "intervals; rare seen, common unseen: predicted / gold)",
    *aligned(rows),
  ]
  if diagnosis["comparisons"]:
    rows = [["comparison", criterion, "wins", "losses", "McNemar p", "same sign"]]
    rows += [
      [
        f"{row['arm']} - {row['against']}",
        estimate(row["difference"]),
        str(row["wins"]),
        str(row["losses"]),
        f"{row['mcnemar_p']:.2g}",
        row["seeds_same_sign"],
      ]
      for row in diagnosis["comparisons"]
    ]
    found += ["", "Paired comparisons", *aligned(rows)]
  if diagnosis.get("verdict"):
    found += ["", *verdict.lines(diagnosis["verdict"])]
  return found


def calibration_lines(quality):
  """Lines on the confidences of all relations together: measures and yields (calibration.quality)."""
  pooled = quality["pooled"]
  head = (
    f"Confidences of {pooled['units']} held-out answers to {pooled['queries']} queries "
    f"({100 * quality['confidence']:g}% bootstrap intervals; ECE over {pooled['bins']} bins of equal mass)"
  )
  measures = [
    ("share right", "share_right"),
    ("mean confidence", "mean_confidence"),
    ("ECE", "ece"),
    ("ECE less its bias", "ece_debiased"),
    ("Brier", "brier"),
    ("AUROC", "auroc"),
  ]
  rows = [["measure", "value", ""], *([name, estimate(pooled[key]), ""] for name, key in measures)]
  rows += [
    [
      f"yield at {100 * row['precision']:g}% precision",
      estimate(row["share"]),
      ""
      if row["answers"] is None
      else f"{row['right']['mean']:.0f} right of {row['answers']} answers",
    ]
    for row in pooled["yields"]
  ]
  return [head, *aligned(rows)]


def _at(arm, keys):
  for key in keys:
    arm = arm.get(key) if arm else None
  return arm


def estimate(found, full=True):
  """A mean, with its interval where it has one (and `full`); "-" where it is undefined."""
  if not found or found["mean"] is None:
    return "-"
  if not full or found["low"] is None:
    return f"{found['mean']:.3f}"
  return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def aligned(rows):
  """Lines of a table of texts: the first column to the left, the others to the right."""
  rows = list(rows)
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [
    "  "
    + "  ".join(
      [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
    ).rstrip()
    for row in rows
  ]
