"""Texts around the tables and pictures of a diagnosis's report, as HTML.

Titles, how to read each part, and why one is missing.
"""

TITLES = {
  "arms": "Arms",
  "claims": "Claims of both papers, and whether they hold here",
  "comparisons": "Paired comparisons",
  "verdict": "What finetuning did, and what to try first",
  "remedies": "Remedies: what each needs, costs and gives",
  "steps": "Accuracy against finetuning steps",
  "alpha": "Mixing with the model before finetuning",
  "ratios": "How often each group of answers is predicted",
  "pressure": "Over-prediction against shock pressure",
  "popularity": "Accuracy by popularity of the subject",
  "attention": "Attention to the subject",
  "relations": "Accuracy by relation",
  "entities": "Which answers are over- and under-predicted",
  "browser": "Every answer by name",
  "run": "What was run",
  "notes": "Definitions",
}

# What stands in each column of the table of arms, by what its arms have.
COLUMNS = {
  "ratio": (
    "<b>Ratio</b>: how often a group of answers is predicted for each time one of them is the "
    "right answer; 1 is as often as right. Answers are rare or common in the pretraining text, and "
    "seen or unseen in the finetuning facts. <b>Shock</b>: share of predictions that moved from "
    "common unseen to rare seen answers. <b>Shock slope</b>: how far over-prediction follows the "
    "frequencies of finetuning (0: not at all). <b>Total variation</b>: distance between the "
    "frequencies of predicted and of right answers."
  ),
  "known": (
    "<b>Known kept</b>: of the facts that the model is known to hold (the ceiling arm answers "
    "them), the share that this arm still answers."
  ),
  "flips": (
    "<b>Gained / lost</b>: share of queries right here and wrong for {reference}, and the reverse."
  ),
  "selected": (
    "Below an arm's name stands the step or strength that was best on development facts, which are "
    "not those of the test, one a seed where they differ."
  ),
}

READING = {
  "arms": (
    "An arm is one way to get answers: a prompt, a finetuned model, a mix of models. Share of "
    "queries right by {criterion}, with its {level} interval in brackets below; the dashed line is "
    "{reference}."
  ),
  "comparisons": (
    "Difference in share right, by {criterion}, of two arms on the same queries; bold where its "
    "interval excludes 0 (the dashed line). <b>Only arm right</b> and <b>only other right</b> "
    "count the queries on which the two differ, which is what McNemar's test looks at. <b>Seeds of "
    "same sign</b>: in how many repetitions the difference has the sign of the mean."
  ),
  "verdict": (
    "Differences in share right on the same queries, with {level} intervals. <b>The prior</b>: "
    "what is gained when answers are again given as often as before finetuning. <b>Access</b>: "
    "what is still lost then among facts that the model knew. <b>New knowledge</b>: what "
    "finetuning gained on the other facts."
  ),
  "claims": (
    "What Frequency Shock (arXiv 2301.11293) and Which facts (arXiv 2406.14785) say, beside the "
    "paired difference of two arms here: in share right, by {criterion}, in how often a group of "
    "answers is predicted over how often it is right, or in attention to the subject. A claim "
    "holds where the {level} interval lies on the side that it names, fails where it lies on the "
    "other, and is unclear otherwise; “as good” and “no better” allow for .02. The last column is "
    "the least true difference that a test of this size would see four times out of five."
  ),
  "remedies": (
    "Each remedy against plain finetuning on the same facts: difference in share right, by "
    "{criterion}, on the same queries, bold where its {level} interval excludes 0 (the dashed "
    "line), with the number of seeds that have its sign; beside it the same against finetuning "
    "that was stopped early; then share right, shock "
    "and known facts kept as in the table of arms. A remedy that trains has a row stopped early, "
    "too. "
    "Strengths and steps are chosen on development facts. <b>Needs</b> and <b>cost</b> are what "
    "comes on top of plain finetuning."
  ),
  "steps": (
    "How to read: each line is one kind of finetuning, measured after the given number of steps; "
    "bands are {level} intervals; the dashed line is the model before finetuning. A line that "
    "rises and then falls gains at first and is harmed beyond a point; compare the final height "
    'with the dashed line. The highest point is picked on these same test facts; "stopped early" '
    "in the table picks it on others."
  ),
  "alpha": (
    "How to read: alpha is the weight of the finetuned model in the mix, from 0 (the model before "
    "finetuning) to 1. First, {criterion} (higher is better); second, the distance between the "
    "frequencies of predicted and of right answers (lower is better). Rings mark the alpha chosen "
    "on development facts. Bands are {level} intervals."
  ),
  "ratios": (
    "How to read: each row is an arm, each mark a group of answers; 1 (the thick line) means "
    "predicted as often as right, 2 twice too often. <b>Rare</b> and <b>common</b> are by "
    "frequency in the pretraining text; <b>seen</b> means an answer of the finetuning facts. "
    "Frequency shock is the circle (rare, seen) to the right and the square (common, unseen) to "
    "the left. Bars are {level} intervals. A ratio of 0 cannot be drawn here: see the table."
  ),
  "pressure": (
    "How to read: each mark is an answer of a relation that is right in the test or was seen in "
    "finetuning, larger the more often it is right (gold). To the right: more frequent in "
    "finetuning than in pretraining; up: predicted more often than right (one added to both "
    "counts). Both axes are in factors of two. A flat line means no frequency shock; the steeper "
    "it rises, the more the finetuning frequencies drive the answers. The slope is given with its "
    "{level} interval."
  ),
  "popularity": (
    "How to read: test questions are sorted by the popularity of the subject they ask about, least "
    "popular on the left, in bins of about equal size; bars are {level} intervals. Lines that are "
    "far apart on the left show what an arm does to rarely named subjects."
  ),
  "attention": (
    "<b>Attention</b>: how much of the model's attention is on the subject's tokens where the "
    "answer's first token is predicted, in an encoder at the blank that stands for the answer; "
    "mean over layers, heads and test facts, with its {level} interval. <b>Change</b>: against "
    "{reference}, on the same facts; bold where its interval excludes 0. <b>Of uniform</b>: "
    "attention as a multiple of what the subject would get if all tokens got the same. "
    "<b>Subject</b> and <b>rest</b>: what attention to the subject, and to all other tokens, adds "
    "to the logit of the right answer above its competitors, over all layers and heads. "
    "<b>Salience</b>: what the subject would add if all attention were on it; this tells what is "
    "stored apart from what is attended to."
  ),
  "attention_changes": (
    "Differences on the same facts, arm minus the other, with {level} intervals, bold where these "
    "exclude 0: attention to the subject at each place of the model, then, in logits, what the "
    "subject and the rest add, and salience. Where attention alone changes, so does what the "
    "subject adds, while salience stays."
  ),
  "attention_answers": (
    "Attention to the subject on facts answered right and wrong; then its change against "
    "{reference} on facts whose right answer was lost and on those still right, and the difference "
    "of the two: below 0, attention fell further where answers were lost."
  ),
  "attention_heads": (
    "How to read: a row is a layer, the first on top; a column is a head. Red: the head attends "
    "less to the subject than in {reference}; blue: more. Numbers are means over seeds; heads at "
    "the same place in models of different seeds have nothing else in common. All panels of one "
    "kind of attention have the same scale; in large models the strongest hundredth of the heads "
    "is beyond it, in the strongest colour."
  ),
  "attention_popularity": (
    "How to read: test questions are sorted by the popularity of their subject, least popular on "
    "the left, in bins of about equal size; bars are {level} intervals. First the attention, then "
    "its change against {reference} on the same facts, which is surer: arms may differ clearly "
    "though the bars of their levels overlap."
  ),
  "attention_curves": (
    "How to read: change of attention to the subject against {reference} (the dashed line) after "
    "the given number of finetuning steps, or at the given weight alpha of the finetuned model; "
    "bands are {level} intervals."
  ),
  "relations": (
    "Share right by {criterion} within each relation, with its {level} interval; in the mean all "
    "relations count alike, however many questions each has."
  ),
  "entities": (
    "Answers that {arm} predicts furthest more or less often than they are right (gold); counts "
    "are of one seed and one relation."
  ),
  "browser": (
    "Click a column to sort by it; search by name or relation; point at a mark to read whose it "
    "is. Orange: rare and seen in finetuning; blue: common and not seen. Counts are added up over "
    "seeds; that of pretraining is their mean. Needs a browser that runs scripts."
  ),
}

WHY_NOT = {
  "summary": (
    "No summary: the diagnosis names neither a finetuned arm nor remedies to compare; see the "
    "table."
  ),
  "shock": (
    "No ratios and no shock: they need the finetuning facts and how often the pretraining text "
    "names each answer (--finetuning_facts and --entity_counts of diagnose)."
  ),
  "comparisons": "No paired comparisons: the diagnosis compares no two arms.",
  "steps": "Not drawn: the diagnosis has no arm measured at two or more finetuning steps.",
  "alpha": "Not drawn: the diagnosis has no arm measured at two or more values of alpha.",
  "ratios": (
    "Not drawn: no arm has prediction ratios, which need the finetuning facts and the pretraining "
    "counts of answers."
  ),
  "pressure": (
    "Not drawn: the diagnosis has no counts by entity, which need the finetuning facts and the "
    "pretraining counts of answers."
  ),
  "relations": "Not listed: there is one relation.",
  "claims": "No claims of the papers: they are told of an experiment's arms alone.",
  "remedies": (
    "No remedies: the diagnosis has no remedy with plain finetuning on the same facts to compare "
    "it with."
  ),
  "verdict": (
    "No verdict: it needs an arm that restores the answer frequencies of before finetuning. Add an "
    "arm of kind prior_correction and name it as roles.corrected in the config, as the config demo "
    "does; or give diagnose --finetuned and --corrected, and the predictions that "
    "factshock.correct writes."
  ),
  "popularity": "Not drawn: the test facts carry no popularity of their subjects.",
  "entities": (
    "Not listed: the diagnosis has no counts by entity of a finetuned arm, or every answer is "
    "predicted as often as right."
  ),
  "browser": (
    "No answers by name: the predictions were read without counts of entities and finetuning facts."
  ),
  "run": "Not recorded: the diagnosis was made from predictions files alone.",
  "notes": "The diagnosis carries no definitions.",
}
