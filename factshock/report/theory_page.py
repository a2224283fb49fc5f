"""The page of the one-layer theory: its predictions with their verdicts, the pictures, and the tables of conditions."""

import json

from factshock.report import document, markup, theory_plots
from factshock.report.markup import cell, difference, text
from factshock.report.numbers import known_estimate as clean
from factshock.report.numbers import share
from factshock.runtime.errors import UserError

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
VERDICTS = {"holds": "Holds.", "holds in part": "Holds in part.", "fails": "Fails."}

TITLES = {
  "claims": "The theory's predictions",
  "storage": "How facts are stored, and what finetuning on one does",
  "steps": "Finetuning on each set of facts",
  "question": "The same with a token of its own for the question",
  "popularity": "Who is harmed: by popularity of the subject",
  "phases": "Where the harm begins",
  "stored": "By how well facts are stored",
  "conditions": "Other embeddings, and the closed form",
  "variants": "What the theory leaves out",
  "run": "What was run",
}

READING = {
  "claims": "Means over seeds with {level} intervals of Student's t. An estimate holds where its whole interval lies on "
  "the side that the theory asks for; a prediction holds in part where only some of its estimates do. Attention "
  "is on subjects that were not finetuned on; their attention moves by the relation's token alone, so all of "
  "them in a relation move alike.",
  "storage": "First: salience S(s, r, a) = phi(a)<sup>T</sup> W<sub>V</sub> phi(s) of the trained matrix; the dashed line "
  "is gradient flow of a subject's values where the relation's token tells which answers are possible, and not "
  "how common they are. Second: the share of facts on which a step of finetuning moves attention to the "
  "subject, by the closed form of the gradient, -a<sub>s</sub> (e<sub>a</sub> - p)<sup>T</sup> (v<sub>s</sub> - "
  "sum<sub>j</sub> a<sub>j</sub> v<sub>j</sub>).",
  "steps": "W<sub>KQ</sub> is finetuned on facts of one set, W<sub>V</sub> is frozen, and subjects of none of the sets "
  "are asked. Bands are {level} intervals. Halves are by how often the corpus names the subject; fifths by the "
  "salience of the facts of each relation.",
  "question": "As above, but questions name the relation by a token that has only a part in common with the one that "
  "pretraining knew (cosine {question}).",
  "popularity": "Share right after the last step. The theory says that the distance between the two solid lines grows to the "
  "right.",
  "phases": "Points of accuracy on subjects that were not finetuned on, bold where the {level} interval excludes 0; red "
  "is harm. First row of panels: how much worse the unpopular half is than the popular one. Second: how much "
  "worse it is than no finetuning. The finetuned subjects are drawn from each half at random. With a larger "
  "exponent fewer facts are known at all, so rows differ in that too; the next pictures hold the exponent and "
  "vary it.",
  "begins": "When finetuning on so many subjects of the unpopular half begins to harm those that were not finetuned on: "
  "the first of the steps looked at from which on the {level} interval of the difference lies above 0; a dash "
  "where it does not at the last one.",
  "stored": "Each point is another length of pretraining, the longest to the right. Below 0 in the first panel the "
  "unpopular half is the better one to finetune on.",
  "conditions": "Share right on test subjects before finetuning; what finetuning on the popular half gives above the "
  "unpopular half; and by how much each set moves attention to test subjects. Bold: the {level} interval "
  "excludes 0. In closed form all logits are small and linear in frequency: the relation's token, which many "
  "more facts taught, then outweighs nearly every subject, and attention leaves all of them.",
  "variants": "A world of {subjects} subjects with embeddings and matrices of full size, trained by the same gradient "
  "descent; attention is the mean over layers and heads of that of the last position. Pretraining ended when "
  "the share {known} of all facts was right, so that the models know as much. Bold: the {level} interval "
  "excludes 0.",
}


def write_report(found, folder):
  """Writes folder/report.html and folder/figures/*.png from what theory.json holds; returns the path of the page.

  Raises:
    UserError: no predictions in it, or the folder cannot be written.
  """
  if not isinstance(found, dict) or not found.get("claims"):
    raise UserError(
      'theory: expected a dict with "claims", as theory.json holds, got none; run the experiment first'
    )
  pictures = theory_plots.draw(found)
  return document.write_files(render(found, pictures), pictures, folder)


def render(found, pictures):
  """The page as a string."""
  heading = text(found.get("name") or "The one-layer theory")
  figures = {
    key: document.figure(panels, _caption(found, key)) for key, panels in pictures.items() if panels
  }
  for key, sets in (("steps", "sets"), ("question", "question_sets")):
    figures[key] = _sets(found[sets]) + figures[key]
  if "phases" in figures:
    figures["phases"] = _begins(found) + figures["phases"]
  parts = {
    "claims": _claims(found),
    **figures,
    **{key: _table(found, key) for key in ("conditions", "variants") if found.get(key)},
    "run": _run(found),
  }
  seeds = len(found["seeds"])
  top = f'<h1>{heading}</h1>\n<p class="under">arXiv 2406.14785, one layer and one head, {seeds} seed{"s" * (seeds > 1)}</p>'
  body = "\n".join(
    [
      top,
      *(f"<section>\n<h2>{TITLES[key]}</h2>\n{part}\n</section>" for key, part in parts.items()),
    ]
  )
  return document.document(heading, body, POLICY)


def _caption(found, key):
  config = (found.get("run") or {}).get("config") or {}
  small = config.get("variants") or {}
  return READING[key].format(
    level=f"{found['confidence']:.0%}",
    question=f"{config.get('question', 1):g}",
    subjects=(small.get("world") or {}).get("subjects", "fewer"),
    known=(small.get("pretrain") or {}).get("known", ""),
  )


def _claims(found):
  rows = []
  for number, claim in enumerate(found["claims"], 1):
    rows.append(f"{number}. {text(claim['statement'])} {VERDICTS[claim['verdict']]}")
    rows += [
      [
        text(row["what"]),
        _number(row),
        f"{row['wanted']} 0",
        "yes" if row["holds"] else "<b>no</b>",
      ]
      for row in claim["estimates"]
    ]
  return (
    markup.table(["Prediction and estimates", "Estimate", "Wanted", "Holds"], rows)
    + f'<p class="caption">{_caption(found, "claims")}</p>'
  )


def _number(row):
  return cell(clean(row), lambda value: share(value, True))


def _table(found, key):
  sets = [name for name in theory_plots.SETS if any(name in row["attention"] for row in found[key])]
  head = [
    "",
    "Right<br>before",
    "Gap",
    *(f"Attention,<br>{theory_plots.SETS[name][0].lower()}" for name in sets),
  ]
  rows = [
    [
      text(row["title"]),
      cell(clean(row["before"])),
      difference(clean(row["gap"])),
      *(difference(clean(row["attention"].get(name))) for name in sets),
    ]
    for row in found[key]
  ]
  return markup.table(head, rows) + f'<p class="caption">{_caption(found, key)}</p>'


def _sets(sets):
  """What each set of facts gives at the last step, and where the model then looks."""
  head = [
    "Finetuned on",
    "Right",
    "Most common<br>answer",
    "Attention to<br>test subjects",
    "to those<br>finetuned on",
  ]
  rows = [
    [
      "Nothing",
      *(cell(clean(sets["whole"][key][0])) for key in ("accuracy", "common", "attention")),
      cell(None),
    ]
  ]
  rows += [
    [
      theory_plots.SETS[name][0],
      *(cell(clean(sets[name][key][-1])) for key in ("accuracy", "common", "attention")),
      cell(clean(sets[name]["attention_of_own"])),
    ]
    for name in theory_plots.SETS
    if name in sets
  ]
  return markup.table(head, rows)


def _begins(found):
  """From which finetuning step on each harm is there, a row for each Zipf exponent."""
  cells = {(row["zipf"], row["size"]): row for row in found["phases"]}
  exponents, sizes = (sorted({key[i] for key in cells}) for i in range(2))
  words = {"gap": "worse than the<br>popular half", "harm": "worse than<br>no finetuning"}
  head = [
    "Zipf exponent",
    "Right<br>before",
    *(f"{size} subjects:<br>{words[name]}" for size in sizes for name in words),
  ]
  rows = [
    [
      f"{exponent:g}",
      cell(clean(cells[exponent, sizes[0]]["before"])),
      *(_from_step(cells[exponent, size][f"{name}_begins"]) for size in sizes for name in words),
    ]
    for exponent in exponents
  ]
  return markup.table(head, rows) + f'<p class="caption">{_caption(found, "begins")}</p>'


def _from_step(step):
  return cell(None) if step is None else f"from step {step}"


def _run(found):
  run = found.get("run") or {}
  listed = "".join(
    f"<dt>{name}</dt><dd>{text(run[key])}</dd>"
    for name, key in (
      ("Command", "command"),
      ("Device", "device"),
      ("Started", "started"),
      ("Took, seconds", "seconds"),
    )
    if run.get(key) is not None
  )
  config = text(json.dumps(run.get("config"), indent=2, ensure_ascii=False))
  return f'<dl class="run">{listed}</dl><details><summary>Whole config</summary><pre>{config}</pre></details>'
