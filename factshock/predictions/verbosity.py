"""Answers that say more than the answer: right, though they equal no accepted one."""

from factshock.predictions import accuracy
from factshock.predictions.reading import PredictionsByArm

_SHARE = 0.1  # of the queries, from which on a hint is given


def hints(arms: PredictionsByArm) -> list[str]:
  """Returns a line for each arm many of whose answers contain an accepted one but equal none."""
  lines: list[str] = []
  for label, by_seed in arms.items():
    total = sum(map(len, by_seed.values()))
    longer = 0
    for predictions in by_seed.values():
      scores_Nx3 = accuracy.scores(predictions)
      longer += int((scores_Nx3[:, 1] > scores_Nx3[:, 0]).sum())
    if longer >= _SHARE * total:
      lines.append(
        f"{label}: {longer:,} of {total:,} answers contain an accepted answer but are longer; "
        "--criterion=contains counts them as right"
      )
  return lines
