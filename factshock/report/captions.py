"""The report's words around its tables and pictures, as HTML: titles, how to read them, why one is gone."""

TITLES = {
  "arms": "Arms",
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

READING = {
  "arms": "Share right by {criterion}, with its {level} interval in brackets below; the dashed line is zero-shot. "
  "<b>Ratio</b>: predictions of a group of answers for each time one of them is the gold answer (1 is "
  "right). <b>Shock</b>: share of predictions that moved from common unseen to rare seen answers. "
  "<b>Shock slope</b>: how far over-prediction follows the frequencies of finetuning (0: not at all). "
  "<b>Total variation</b>: distance between predicted and gold answer frequencies. <b>Known kept</b>: "
  "share of the facts the ceiling arm answers that this arm still answers. <b>Gained / lost</b>: "
  "share of queries right here and wrong for {reference}, and the reverse. A narrow screen scrolls "
  "the table sideways.",
  "comparisons": "Difference in share right, by {criterion}, on the same queries; bold where its interval excludes 0 (the dashed "
  "line). <b>Only arm right</b> and <b>only other right</b> count the queries on which the two "
  "differ, which is what McNemar's test looks at.",
  "verdict": "Differences in share right on the same queries, with {level} intervals. The prior is what restoring the answer frequencies of before "
  "finetuning gives back; access is what is still lost then among facts the model knew; new knowledge is what finetuning gained "
  "on the other facts.",
  "remedies": "Each remedy against plain finetuning on the same facts: difference in share right, by {criterion}, on the same queries, bold where its "
  "{level} interval excludes 0 (the dashed line); beside it the same against finetuning that was stopped early, the "
  "remedy stopped early too where it trains; then share right, shock and known facts kept as in the table of arms. Strengths and steps are "
  "chosen on development facts. <b>Needs</b> and <b>cost</b> are beside plain finetuning.",
  "steps": "How to read: each line is one kind of finetuning, measured after the given number of steps; bands "
  "are {level} intervals; the dashed line is the model before finetuning. A line that rises and then "
  "falls gains at first and is harmed beyond a point; compare the final height with the dashed line. The "
  'highest point is picked on these same test facts; "stopped early" in the table picks it on others.',
  "alpha": "How to read: alpha is the weight of the finetuned model in the mix. First, {criterion} (higher is "
  "better); second, the distance between predicted and gold answer frequencies (lower is better). "
  "Rings mark the alpha chosen on development facts. Bands are {level} intervals.",
  "ratios": "How to read: each row is an arm, each mark a group of answers; 1 (the black line) means predicted "
  "as often as right, 2 twice too often. <b>Rare</b> and <b>common</b> are by pretraining frequency; "
  "<b>seen</b> means an answer of the finetuning facts. Frequency shock is the circle (rare, seen) to "
  "the right and the square (common, unseen) to the left. Bars are {level} intervals. A ratio of 0 "
  "cannot be drawn here: see the table.",
  "pressure": "How to read: each mark is an answer of a relation that is right in the test or was seen in "
  "finetuning, larger the more often it is the gold answer. To the right: more frequent in finetuning "
  "than in pretraining; up: predicted more often than right (one added to both counts). Both axes are "
  "in factors of two. A flat line means no frequency shock; the steeper it rises, the more the "
  "finetuning frequencies drive the answers. The slope is given with its {level} interval.",
  "popularity": "How to read: test questions are sorted by the popularity of the subject they ask about, least "
  "popular on the left, in bins of about equal size; bars are {level} intervals. Lines that are far "
  "apart on the left show what an arm does to rarely named subjects.",
  "attention": "<b>Attention</b>: weight on the subject's tokens where the answer's first token is predicted, in an encoder at the blank that "
  "stands for the answer; mean over layers, heads and test facts, with its {level} interval. <b>Change</b>: against {reference}, on "
  "the same facts; bold where its interval excludes 0. <b>Of uniform</b>: attention for each time that even attention to all tokens would give. <b>Subject</b> and "
  "<b>rest</b>: what the values attended to add to the logit of the right answer above its competitors, over all layers and heads. "
  "<b>Salience</b>: what the subject's values would add if all attention were on them, which tells what is stored apart from what is "
  "attended to.",
  "attention_changes": "Differences on the same facts, arm minus the other, with {level} intervals, bold where these exclude 0: attention to the subject at "
  "each place, then, in logits, what the subject and the rest add, and salience. Where attention alone changes, so does "
  "what the subject adds, while salience stays.",
  "attention_answers": "Attention to the subject on facts answered right and wrong; then its change against {reference} on facts whose right answer was lost "
  "and on those still right, and the difference of the two: below 0, attention fell further where answers were lost.",
  "attention_heads": "How to read: a row is a layer, the first on top, a column a head. Red: the head attends less to the subject than in {reference}; "
  "blue: more; the mean over seeds, of which heads of one place have nothing else in common. All panels of one kind of attention have the same scale; in large models the strongest hundredth of the heads is beyond "
  "it, in the darkest colour.",
  "attention_popularity": "How to read: test questions are sorted by the popularity of their subject, least popular on the left, in bins of about equal size; "
  "bars are {level} intervals. First the attention, then its change against {reference} on the same facts, which is surer: arms may "
  "differ clearly though the bars of their levels overlap.",
  "attention_curves": "How to read: change of attention to the subject against {reference} (the dashed line) after the given number of finetuning steps, or "
  "at the given weight alpha of the finetuned model; bands are {level} intervals.",
  "relations": "Share right by {criterion} within each relation, with its {level} interval; the mean counts relations alike, however "
  "many questions each has.",
  "entities": "Answers whose number of predictions by {arm} is furthest above and below the number of queries "
  "they are right for (gold); counts are of one seed and one relation.",
  "browser": "Click a column to sort by it; search by name or relation; point at a mark to read whose it is. Orange: rare and seen in "
  "finetuning; blue: common and not seen. Counts are added up over seeds, that of pretraining is their mean. Needs a browser that runs scripts.",
}

WHY_NOT = {
  "summary": "No summary: the diagnosis names neither a finetuned arm nor remedies to compare; see the table.",
  "shock": "No ratios and no shock: they need the finetuning facts and how often the pretraining text names "
  "each answer (--finetuning_facts and --entity_counts of diagnose).",
  "comparisons": "No paired comparisons: the diagnosis compares no two arms.",
  "steps": "Not drawn: the diagnosis has no arm measured at two or more finetuning steps.",
  "alpha": "Not drawn: the diagnosis has no arm measured at two or more values of alpha.",
  "ratios": "Not drawn: no arm has prediction ratios, which need the finetuning facts and the pretraining "
  "counts of answers.",
  "pressure": "Not drawn: the diagnosis has no counts by entity, which need the finetuning facts and the "
  "pretraining counts of answers.",
  "relations": "Not listed: there is one relation.",
  "remedies": "No remedies: no arm of theirs has plain finetuning on the same facts to be compared with.",
  "verdict": "No verdict: no arm restores the answer prior of the finetuned one (roles.corrected; --corrected of diagnose).",
  "popularity": "Not drawn: the test facts carry no popularity of their subjects.",
  "entities": "Not listed: the diagnosis has no counts by entity of a finetuned arm, or every answer is predicted "
  "as often as right.",
  "browser": "No answers by name: the predictions were read without counts of entities and finetuning facts.",
  "run": "Not recorded: the diagnosis was made from predictions files alone.",
  "notes": "The diagnosis carries no definitions.",
}
