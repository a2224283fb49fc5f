"""Texts around the tables and pictures of an extraction's page, as HTML.

Titles, how to read each part, and why one is missing.
"""

TITLES = {
  "quality": "Do the confidences hold?",
  "reliability": "Reliability",
  "risk": "Risk against coverage",
  "yields": "Yield at a precision",
  "relations": "Relations",
  "over_predicted": "Answers given far too often",
  "conflicts": "Contradictions between triples",
  "outputs": "Files written",
  "run": "What was run",
  "notes": "Definitions",
}

READING = {
  "quality": (
    "Measured on held-out answers, on which neither the calibration nor a threshold was fitted; in "
    "small type {level} intervals of a bootstrap over queries (or subjects) with all their "
    "answers. <b>ECE</b> (expected calibration error): mean distance between confidence and share "
    "right, over {bins} bins with equally many answers; it comes out too high where answers are "
    "few. <b>Brier</b>: mean squared distance of confidence from right (1) or wrong (0). "
    "<b>AUROC</b>: chance that a right answer has a higher confidence than a wrong one; .5 is "
    "chance. <b>AURC</b>: area under the curve of risk against coverage; lower is better."
  ),
  "reliability": (
    "How to read: answers are cut into bins by their confidence; a point above the dashed line is "
    "right more often than its confidence says, one below less often. Bars are {level} intervals; "
    "the strip below counts the answers of each bin. Beside it, each relation is one mark, larger "
    "with more answers: off the line, its confidences are too high or too low on the whole; orange "
    "where its mean confidence is outside the interval of its share right."
  ),
  "risk": (
    "How to read: going right, less confident answers are given too, and the share of wrong ones "
    "rises to that of all answers. A curve that stays low for long makes for many trustworthy "
    "triples; a flat one means that confidence does not tell right from wrong. The band is the "
    "{level} interval. Dotted: precisions that are often asked for."
  ),
  "yields": (
    "The most queries that can be answered while the given share of answers is right, most "
    "confident first, with one lowest confidence for all relations. It is the best one for these "
    "very held-out answers: it says what the confidences are worth and promises nothing."
  ),
  "relations": (
    "<b>Accepted</b>: triples written. <b>Expected precision</b>: the share of them that should be "
    "right by their confidences. The columns from <b>held out</b> on are measured: answers, share "
    "right, mean confidence less share right (bold where its {level} interval excludes 0), ECE, "
    "AUROC, and the share of queries answered at {precision} precision with the lowest confidence "
    "that suits the relation best. <b>Calibrated on</b>: answers of the relation; pooled: it has "
    "too few of its own and leans on all relations."
  ),
  "over_predicted": (
    "Answers that the model gives to a far larger share of a relation's queries than the "
    "calibration answers and the counts in text support. <b>Right in calibration</b>: how often it "
    "was right there, of the times it was given. Confidence is the mean over its triples, before "
    "and after it was lowered. <b>Displaced</b>: what would have been right in calibration where "
    "it was given wrongly, with how often."
  ),
  "conflicts": (
    "Triples that cannot both hold; the less confident one was dropped. Functional: a relation of "
    "one object got two; inverse and symmetric: the two directions disagree; type: an object of "
    "another type than the relation's."
  ),
}

WHY_NOT = {
  "summary": "No summary: the extraction carries no counts and no quality.",
  "quality": "Not measured: no calibration answers were held out.",
  "reliability": "Not drawn: no held-out answers with confidences.",
  "risk": "Not drawn: no held-out answers with confidences.",
  "yields": "Not measured: no calibration answers were held out.",
  "relations": "Not listed: the extraction names no relations.",
  "over_predicted": (
    "Not looked for: the extraction carries no list of over-predicted answers (the shock guard was "
    "off)."
  ),
  "no_over_predicted": (
    "None: no answer is given far more often than the calibration answers and the counts support."
  ),
  "conflicts": (
    "Not looked for: the extraction carries no conflicts (the consistency rules were off)."
  ),
  "no_conflicts": "None: no two triples contradict each other.",
  "outputs": "Not recorded: the extraction names no files.",
  "run": "Not recorded.",
  "notes": "The extraction carries no definitions.",
}
