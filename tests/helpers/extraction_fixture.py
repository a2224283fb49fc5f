"""A realistic extraction for the tests of its page: made-up answers whose confidences hold in most
relations.
"""

import numpy as np

from factshock.diagnosis import calibration_quality
from factshock.diagnosis.ranking import Units
from factshock.diagnosis.statistics import Bootstrap

LABELS = {
  "P17": "country",
  "P19": "place of birth",
  "P20": "place of death",
  "P27": "country of citizenship",
  "P30": "continent",
  "P36": "capital",
  "P37": "official language",
  "P47": "shares border with",
  "P101": "field of work",
  "P103": "native language",
  "P106": "occupation",
  "P127": "owned by",
  "P131": "located in the administrative territorial entity",
  "P136": "genre",
  "P140": "religion",
  "P159": "headquarters location",
  "P176": "manufacturer",
  "P264": "record label",
  "P407": "language of work",
  "P413": "position played on team / speciality",
  "P449": "original network",
  "P495": "country of origin",
  "P740": "location of formation",
  "P1376": "capital of",
  "P1412": "languages spoken, written or signed",
}
SEVERAL = ("P47", "P106", "P136", "P1412")


def make_units(relations=12, seed=0, size=220):
  """Answers of made-up relations: (Units, names of relations, queries asked of each).

  Confidences are rounded as isotonic calibration rounds them; those of every fourth relation are
  too high.
  """
  rng = np.random.default_rng(seed)
  known = list(LABELS)
  names = [known[i] if i < len(known) else f"P{9000 + i}" for i in range(relations)]
  asked = rng.integers(size // 5, 2 * size, relations)
  columns, first = [], 0
  for code, (name, queries) in enumerate(zip(names, asked)):
    answers = np.where(
      rng.random(queries) < 0.06, 0, rng.integers(1, 4, queries) if name in SEVERAL else 1
    )
    query = np.repeat(np.arange(queries), answers) + first
    score = rng.normal(rng.normal(0, 0.8), 1.8, len(query))
    chance = 1 / (1 + np.exp(-score))
    confidence = np.round(np.clip(chance + (0.12 if code % 4 == 3 else 0), 0, 1) * 25) / 25
    columns.append(
      (confidence, rng.random(len(query)) < chance, score, np.full(len(query), code), query)
    )
    first += queries
  return Units(*map(np.concatenate, zip(*columns))), names, asked


def make_extraction(relations=12, seed=0, resamples=200):
  """An extraction with every part of its page."""
  units, names, asked = make_units(relations, seed)
  rows = [
    {
      "relation": name,
      "label": LABELS.get(name, f"property {name}"),
      "queries": int(40 * queries),
      "accepted": int(14 * queries),
      "answers": "several" if name in SEVERAL else "one",
      "calibration_units": int(queries),
      "pooled": bool(queries < 70),
      "method": "isotonic",
      "expected_precision": 0.91 + 0.002 * (place % 20),
    }
    for place, (name, queries) in enumerate(zip(names, asked))
  ]
  queries, accepted = (sum(row[key] for row in rows) for key in ("queries", "accepted"))
  return {
    "run": {
      "id": "7f3c2e",
      "started": "2026-11-22T01:02:03+00:00",
      "ended": "2026-11-22T01:40:12+00:00",
      "model": "t5-v1.1-large, mixture finetuned",
      "checkpoint": "runs/mine/checkpoints/mixture/0",
      "mixing_weights": [0.6, 0.4],
      "calibration": "dev.jsonl (sha256 9a1b…)",
      "revision": "8b4349a",
      "precision": 0.9,
      "software": {"factshock": "0.1", "numpy": "2.3.1"},
    },
    "counts": {
      "queries": queries,
      "candidates": 5 * queries,
      "accepted": accepted,
      "abstained": queries - accepted,
      "triples": accepted - 181,
    },
    "promise": {
      "target": 0.9,
      "confidence_of_bound": 0.9,
      "threshold": 0.742,
      "lower_bound": 0.904,
      "calibration_accepted": 812,
      "expected_precision": 0.931,
    },
    "quality": calibration_quality.quality(
      units, names, asked, bootstrap=Bootstrap(resamples=resamples, seed=seed)
    ),
    "relations": rows,
    "over_predicted": _over_predicted(),
    "conflicts": _conflicts(),
    "outputs": [
      {"format": "jsonl", "path": "runs/graph/triples.jsonl", "rows": accepted},
      {"format": "nt", "path": "runs/graph/triples.nt", "rows": accepted - 181},
    ],
    "notes": {"accepted": "Answers whose confidence reaches the threshold of their relation."},
  }


def _over_predicted():
  return [
    {
      "relation": "P19",
      "entity": "Ústí nad Labem",
      "predicted": 412,
      "share": 0.118,
      "supported_share": 0.006,
      "calibration_right": 3,
      "calibration_predicted": 19,
      "confidence_before": 0.71,
      "confidence_after": 0.19,
      "displaced": [["Prague", 96], ["Vienna", 71], ["Berlin", 40], ["Brno", 22], ["London", 18]],
    },
    {
      "relation": "P106",
      "entity": "luthier",
      "predicted": 95,
      "share": 0.041,
      "supported_share": 0.002,
      "calibration_right": 0,
      "calibration_predicted": 4,
      "confidence_before": 0.55,
      "confidence_after": 0.11,
      "displaced": [["politician", 33], ["composer", 20]],
    },
  ]


def _conflicts():
  return {
    "counts": {"functional": 128, "inverse": 31, "symmetric": 22, "type": 0},
    "examples": [
      {
        "kind": "functional",
        "kept": ["Freddie Mercury", "P19", "Stone Town", 0.93],
        "dropped": ["Freddie Mercury", "P19", "London", 0.41],
      },
      {
        "kind": "inverse",
        "kept": ["France", "P36", "Paris", 0.99],
        "dropped": ["Versailles", "P1376", "France", 0.35],
      },
    ],
  }
