"""Texts around the tables and pictures of the one-layer theory's page, as HTML."""

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
  "claims": (
    "Means over seeds with {level} intervals of Student's t. An estimate holds where its whole "
    "interval lies on the side that the theory asks for; a prediction holds in part where only "
    "some of its estimates do. Attention is on subjects that were not finetuned on; their "
    "attention moves by the relation's token alone, so all of them in a relation move alike."
  ),
  "storage": (
    "First: salience S(s, r, a) = phi(a)<sup>T</sup> W<sub>V</sub> phi(s) of the trained matrix; "
    "the dashed line is gradient flow of a subject's values where the relation's token tells which "
    "answers are possible, and not how common they are. Second: the share of facts on which a step "
    "of finetuning moves attention to the subject, by the closed form of the gradient, "
    "-a<sub>s</sub> (e<sub>a</sub> - p)<sup>T</sup> (v<sub>s</sub> - sum<sub>j</sub> a<sub>j</sub> "
    "v<sub>j</sub>)."
  ),
  "steps": (
    "W<sub>KQ</sub> is finetuned on facts of one set, W<sub>V</sub> is frozen, and subjects of "
    "none of the sets are asked. Bands are {level} intervals. Halves are by how often the corpus "
    "names the subject; fifths by the salience of the facts of each relation."
  ),
  "question": (
    "As above, but questions name the relation by a token that has only a part in common with the "
    "one that pretraining knew (cosine {question})."
  ),
  "popularity": (
    "Share right after the last step. The theory says that the distance between the two solid "
    "lines grows to the right."
  ),
  "phases": (
    "Points of accuracy on subjects that were not finetuned on, bold where the {level} interval "
    "excludes 0; red is harm. First row of panels: how much worse the unpopular half is than the "
    "popular one. Second: how much worse it is than no finetuning. The finetuned subjects are "
    "drawn from each half at random. With a larger exponent fewer facts are known at all, so rows "
    "differ in that too; the next pictures hold the exponent and vary it."
  ),
  "begins": (
    "When finetuning on so many subjects of the unpopular half begins to harm those that were not "
    "finetuned on: the first of the steps looked at from which on the {level} interval of the "
    "difference lies above 0; a dash where it does not at the last one."
  ),
  "stored": (
    "Each point is another length of pretraining, the longest to the right. Below 0 in the first "
    "panel the unpopular half is the better one to finetune on."
  ),
  "conditions": (
    "Share right on test subjects before finetuning; what finetuning on the popular half gives "
    "above the unpopular half; and by how much each set moves attention to test subjects. Bold: "
    "the {level} interval excludes 0. In closed form all logits are small and linear in frequency: "
    "the relation's token, which many more facts taught, then outweighs nearly every subject, and "
    "attention leaves all of them."
  ),
  "variants": (
    "A world of {subjects} subjects with embeddings and matrices of full size, trained by the same "
    "gradient descent; attention is the mean over layers and heads of that of the last position. "
    "Pretraining ended when the share {known} of all facts was right, so that the models know as "
    "much. Bold: the {level} interval excludes 0."
  ),
}
