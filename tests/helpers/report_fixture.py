"""A realistic diagnosis for the tests of the report, made up around numbers of a controlled
experiment.
"""

import math
import re

import numpy as np

ALPHAS = [round(0.1 * i, 1) for i in range(11)]
STEPS = [0, 10, 25, 50, 100, 200]
BY_STEP = {
  "finetune": [0.339, 0.403, 0.400, 0.344, 0.305, 0.279],
  "mixture": [0.339, 0.372, 0.411, 0.416, 0.408, 0.399],
  "natural": [0.339, 0.410, 0.422, 0.401, 0.372, 0.345],
  "popular_half": [0.339, 0.441, 0.477, 0.460, 0.444, 0.426],
  "unpopular_half": [0.339, 0.371, 0.389, 0.403, 0.341, 0.302],
  "random_half": [0.339, 0.418, 0.445, 0.436, 0.398, 0.365],
  "whole": [0.339, 0.424, 0.444, 0.465, 0.429, 0.384],
  "random_init": [0.002, 0.08, 0.105, 0.115, 0.11, 0.104],
}
BY_ALPHA = {
  "weight_mixing": [0.339, 0.370, 0.394, 0.414, 0.414, 0.406, 0.390, 0.365, 0.336, 0.305, 0.279],
  "output_mixing": [0.339, 0.349, 0.358, 0.364, 0.363, 0.358, 0.344, 0.332, 0.312, 0.292, 0.279],
  "combined": [0.339, 0.362, 0.389, 0.409, 0.418, 0.420, 0.418, 0.414, 0.410, 0.404, 0.399],
}
VARIATION = {
  "weight_mixing": [0.31, 0.28, 0.25, 0.23, 0.22, 0.23, 0.26, 0.29, 0.33, 0.37, 0.41],
  "output_mixing": [0.31, 0.30, 0.29, 0.27, 0.26, 0.27, 0.29, 0.32, 0.35, 0.38, 0.41],
  "combined": [0.31, 0.27, 0.23, 0.20, 0.18, 0.17, 0.17, 0.18, 0.20, 0.22, 0.24],
}
# exact match, ratios (rare seen, rare unseen, common seen, common unseen), shock, slope, variation,
# kept
ARMS = {
  "zero_shot_cloze": (0.661, (0.92, 0.95, 1.04, 1.06), -0.03, -0.02, 0.12, 1.0),
  "zero_shot_question": (0.339, (0.53, 0.55, 1.52, 1.38), -0.20, -0.12, 0.31, 0.47),
  "k_shot": (0.352, (0.60, 0.58, 1.45, 1.33), -0.16, -0.10, 0.30, 0.48),
  "finetune": (0.279, (2.46, 0.35, 1.28, 0.29), 0.52, 0.46, 0.41, 0.36),
  "finetune_early": (0.403, (1.55, 0.52, 1.30, 0.66), 0.23, 0.21, 0.27, 0.55),
  "natural": (0.345, (1.02, 0.88, 1.10, 0.96), 0.02, 0.03, 0.22, 0.45),
  "output_mixing": (0.360, (1.38, 0.55, 1.33, 0.74), 0.17, 0.16, 0.26, 0.49),
  "weight_mixing": (0.410, (1.45, 0.58, 1.31, 0.69), 0.18, 0.17, 0.22, 0.56),
  "mixture": (0.399, (1.70, 0.62, 1.14, 0.70), 0.24, 0.22, 0.24, 0.55),
  "combined": (0.420, (1.08, 0.78, 1.12, 0.99), 0.02, 0.02, 0.17, 0.58),
  "language_model_only": (0.346, (0.52, 0.56, 1.50, 1.41), -0.22, -0.12, 0.31, 0.48),
  "random_init": (0.104, (0.9, 0.2, 2.6, 1.1), 0.05, 0.15, 0.55, 0.11),
  "majority": (0.118, (0.0, 0.0, 6.1, 2.8), -0.60, -0.30, 0.82, 0.12),
  "popular_half": (0.426, (1.05, 0.90, 1.04, 0.97), 0.02, 0.02, 0.18, 0.60),
  "unpopular_half": (0.302, (1.12, 0.85, 1.10, 0.90), 0.05, 0.04, 0.24, 0.40),
  "random_half": (0.365, (1.08, 0.88, 1.06, 0.95), 0.03, 0.03, 0.21, 0.49),
  "whole": (0.384, (1.06, 0.90, 1.05, 0.96), 0.03, 0.03, 0.19, 0.52),
}
TITLES = {
  "zero_shot_cloze": "Zero-shot, cloze (ceiling)",
  "zero_shot_question": "Zero-shot, question",
  "k_shot": "k-shot prompt",
  "finetune": "Finetuned",
  "finetune_early": "Finetuned, stopped on dev",
  "natural": "Finetuned, natural answers",
  "output_mixing": "Output mixing",
  "weight_mixing": "Weight mixing",
  "mixture": "Mixture finetuning",
  "combined": "Both combined",
  "language_model_only": "Language model only",
  "random_init": "Random initialisation",
  "majority": "Majority answer",
  "popular_half": "Popular half",
  "unpopular_half": "Unpopular half",
  "random_half": "Random half",
  "whole": "Whole pool",
}
GROUPS = (
  dict.fromkeys(list(ARMS)[:6], "baseline")
  | dict.fromkeys(list(ARMS)[6:10], "remedy")
  | dict.fromkeys(list(ARMS)[10:13], "control")
  | dict.fromkeys(list(ARMS)[13:], "which facts")
)
NOTES = {
  "exact_match": (
    "The prediction equals the answer or an alias after lower-casing and dropping articles."
  ),
  "groups": (
    "Common: the smallest head set of a relation's answers with half its mentions. Rare: the rest."
  ),
  "shock": "Predicted minus gold share of rare answers seen in finetuning, plus gold minus "
  "predicted share "
  "of common answers not seen in it.",
  "interval": "95%, bootstrap over queries within seeds and over seeds.",
}


def make_estimate(rng, mean, seeds, spread, low=-np.inf):
  """An estimate around `mean` with a value a seed."""
  values = np.maximum(low, mean + spread * rng.standard_normal(len(seeds)))
  values += mean - values.mean()
  half = 1.96 * spread / math.sqrt(len(seeds))
  return {
    "mean": mean,
    "low": max(low, mean - half),
    "high": mean + half,
    "by_seed": {str(seed): float(value) for seed, value in zip(seeds, values)},
  }


def make_arm(rng, seeds, exact, ratios=None, shock=0.0, slope=0.0, variation=None, kept=None):
  """One entry of "arms"."""

  def around(mean, spread=0.012, low=-np.inf):
    return make_estimate(rng, mean, seeds, spread, low)

  arm = {
    "queries": 1280 * len(seeds),
    "right": around(exact, 0.02),
    "contains": around(exact, 0.02),
    "f1": around(exact, 0.02),
    "mrr": around(exact + 0.1, 0.02),
  }
  if variation is not None:
    arm["shock"] = {"total_variation": around(variation)}
  if ratios is None:
    return arm
  names = ("rare_seen", "rare_unseen", "common_seen", "common_unseen")
  arm["shock"] |= {
    "ratio": {
      name: around(value, 0.08 * value, 0) | {"predicted": int(value * 300), "gold": 300}
      for name, value in zip(names, ratios)
    },
    "shock": around(shock, 0.02),
    "slope": around(slope, 0.02),
    "spearman": around(slope, 0.02),
    "range_shift": around(0.5 + 0.4 * shock),
    "mismatch": around(0.45),
  }
  arm["by_popularity"] = [
    {"low": low, "high": high, "queries": 320, "right": around(min(1, exact * factor), 0.02)}
    for low, high, factor in ((1, 6, 0.45), (6, 12, 0.8), (12, 25, 1.2), (25, 190, 1.55))
  ]
  arm["macro_right"] = around(exact, 0.02)
  arm["by_relation"] = {
    name: around(exact + shift, 0.02)
    for name, shift in (("born_in", 0.02), ("works_for", -0.02), ("speaks", 0.05))
  }
  arm["by_type"] = {"N-1": around(exact, 0.02)}
  arm["errors"] = {
    "finetuning_answer": around(0.5 + 0.4 * shock),
    "rarer_than_gold": around(0.4 + 0.3 * shock),
  }
  arm["flips"] = {"gained": around(0.09), "lost": around(max(0, 0.09 + 0.339 - exact))}
  arm["known_kept"] = around(kept, 0.015)
  return arm


def make_verdict(rng, seeds):
  """A verdict as verdict.verdict gives it."""
  around = lambda mean: make_estimate(rng, mean, seeds, 0.01)
  return {
    "verdict": "prior",
    "text": "The answer prior has shifted.",
    "try_first": "Correct it.",
    "reference": "zero_shot_question",
    "finetuned": "finetune",
    "corrected": "weight_mixing",
    "known": "zero_shot_cloze",
    "share_of_loss": 0.8,
    "evidence": {
      "loss": around(-0.06),
      "prior": around(0.05),
      "access": around(-0.01),
      "knowledge": around(0.02),
    },
  }


def make_entities(rng, seeds):
  """Entities whose over-prediction follows their shock pressure by each arm's slope."""
  rows = []
  labels = ("zero_shot_question", "finetune", "combined", "weight_mixing")
  slopes = {label: ARMS[label][3] for label in labels}
  for seed in seeds:
    for relation in ("born_in", "works_for", "speaks", "plays"):
      shares = 1 / np.arange(1, 81)
      shares /= shares.sum()
      for rank, share in enumerate(shares):
        gold, pretraining = int(rng.poisson(320 * share)), int(rng.poisson(8000 * share)) + 1
        finetuning = 4 if rank % 2 == 0 else 0
        pressure = math.log((finetuning + 1) / 400) - math.log((pretraining + 1) / 33000)
        letters = "aeiou"[rank % 5] + "lmnrst"[rank % 6] + "aeiou"[rank // 5 % 5]
        name = f"{relation.title()[:2]}{letters}{rank}"
        predicted = {
          label: int(rng.poisson((gold + 0.4) * math.exp(slope * pressure + 0.2 * rng.normal())))
          for label, slope in slopes.items()
        }
        rows.append(
          {
            "seed": seed,
            "relation": relation,
            "entity": name,
            "pretraining": pretraining,
            "finetuning": finetuning,
            "gold": gold,
            "pressure": pressure,
            "predicted": predicted,
            "group": f"{'common' if rank < 7 else 'rare'}_{'seen' if finetuning else 'unseen'}",
          }
        )
  return rows


REMEDIES = ("weight_mixing", "output_mixing", "mixture", "combined")
ROLES = {
  "zero_shot_cloze": ["ceiling"],
  "zero_shot_question": ["zero_shot"],
  "finetune": ["balanced", "finetuned"],
  "natural": ["natural"],
  "output_mixing": ["output_mixing"],
  "weight_mixing": ["weight_mixing"],
  "mixture": ["mixture"],
  "combined": ["combined"],
  "language_model_only": ["text_alone"],
  "random_init": ["from_random"],
  "popular_half": ["popular_half"],
  "unpopular_half": ["unpopular_half"],
  "random_half": ["random_half"],
  "whole": ["whole"],
}


def make_descriptions():
  """What the study says of each arm."""
  return {
    label: {
      "kind": "kind",
      "roles": ROLES.get(label, []),
      "needs": f"needs of {label}",
      "cost": f"cost of {label}",
      "use_when": f"when to use {label}",
      "caption": f"What {label} is.",
    }
    for label in ARMS
  }


def make_comparisons(rng, arms, seeds):
  """Paired comparisons of every remedy against plain finetuning and zero-shot, and of the
  halves.
  """
  remedies = ["output_mixing", "weight_mixing", "mixture", "combined"]
  pairs = [(label, "finetune") for label in remedies] + [
    (label, "zero_shot_question") for label in remedies
  ]
  pairs += [
    ("finetune", "zero_shot_question"),
    ("popular_half", "unpopular_half"),
    ("popular_half", "whole"),
    ("combined", "weight_mixing"),
    ("combined", "language_model_only"),
  ]
  rows = []
  for arm, against in pairs:
    difference = arms[arm]["right"]["mean"] - arms[against]["right"]["mean"]
    wins = 150 + max(0, int(1280 * difference))
    rows.append(
      {
        "arm": arm,
        "against": against,
        "difference": make_estimate(rng, difference, seeds, 0.013),
        "mcnemar_p": 10 ** (-abs(difference) * 80),
        "wins": wins,
        "losses": wins - int(1280 * difference),
        "seeds_same_sign": f"{len(seeds)}/{len(seeds)}",
      }
    )
  return rows


def make_curves(rng, arms, seeds):
  """Adds the points of the curves to `arms`; returns "curves"."""
  curves = {"steps": {}, "alpha": {}}
  for label, values in BY_STEP.items():
    for step, value in zip(STEPS, values):
      arms[f"{label}@{step}"] = make_arm(rng, seeds, value, variation=0.3)
    curves["steps"][label] = [{"step": step, "label": f"{label}@{step}"} for step in STEPS]
  for label, values in BY_ALPHA.items():
    for alpha, value, variation in zip(ALPHAS, values, VARIATION[label]):
      arms[f"{label}@{alpha}"] = make_arm(rng, seeds, value, variation=variation)
    curves["alpha"][label] = [{"alpha": alpha, "label": f"{label}@{alpha}"} for alpha in ALPHAS]
  return curves


def make_diagnosis(seeds=(0, 1, 2)):
  """The whole dict, the same for the same seeds."""
  rng = np.random.default_rng(0)
  arms = {label: make_arm(rng, seeds, *values) for label, values in ARMS.items()}
  curves = make_curves(rng, arms, seeds)
  chosen = {
    "weight_mixing": "alpha",
    "output_mixing": "alpha",
    "combined": "alpha",
    "finetune_early": "step",
  }
  selected = {
    label: {
      str(seed): {key: 25 if key == "step" else [0.4, 0.3, 0.5][seed % 3], "development": 0.41}
      for seed in seeds
    }
    for label, key in chosen.items()
  }
  return {
    "format": 1,
    "reference": "zero_shot_question",
    "confidence": 0.95,
    "resamples": 1000,
    "seeds": list(seeds),
    "notes": NOTES,
    "arms": arms,
    "comparisons": make_comparisons(rng, arms, seeds),
    "claims": [
      {
        "paper": "Which facts",
        "claim": "popular facts are better than unpopular ones",
        "arm": "popular_half",
        "against": "unpopular_half",
        "measure": "right",
        "difference": {"mean": 0.07, "low": 0.05, "high": 0.09, "by_seed": {}},
        "visible": 0.0286,
        "finding": "holds",
      }
    ],
    "entities": make_entities(rng, seeds),
    "verdict": make_verdict(rng, seeds),
    "curves": curves,
    "table": list(ARMS),
    "titles": TITLES,
    "groups": GROUPS,
    "descriptions": make_descriptions(),
    "selected": selected,
    "remedies": dict.fromkeys(REMEDIES, "finetune"),
    "roles": {
      "finetuned": "finetune",
      "zero_shot": "zero_shot_question",
      "ceiling": "zero_shot_cloze",
      "remedies": ["weight_mixing", "output_mixing", "mixture", "combined"],
    },
    "run": {
      "name": "demo",
      "config": {
        "arms": {label: {"kind": "kind"} for label in ("finetune", *REMEDIES)},
        "seeds": list(seeds),
        "finetune": {"steps": 200, "learning_rate": 3e-4},
        "mixture": {"ratio": 4},
        "world": {"relations": 4, "answers": 80},
      },
      "versions": {"python": "3.11.7", "jax": "0.10.0", "flax": "0.12.0"},
      "device": "cpu x 2",
      "started": "2025-01-31 12:00",
      "seconds": 431.0,
      "facts": {"train": 1280, "development": 320, "test": 960},
      "command": "factshock experiment --config=demo --workdir=runs/demo",
    },
  }


def size_of(svg):
  """Returns the width and height of an SVG image in points."""
  width, height = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
  return float(width), float(height)
