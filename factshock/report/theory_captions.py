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
    "some of its estimates do. Attention is measured on questions about subjects that were not "
    "finetuned on; it moves by the relation's token alone, so it moves alike for all subjects of a "
    "relation."
  ),
  "storage": (
    "First: salience, how well the trained matrix stores a fact, S(s, r, a) = phi(a)<sup>T</sup> "
    "W<sub>V</sub> phi(s); the dashed line is gradient flow of a subject's values where the "
    "relation's token tells which answers are possible, and not how common they are. Second: the "
    "share of facts on which a step of finetuning moves attention to the subject, by the closed "
    "form of the gradient, -a<sub>s</sub> (e<sub>a</sub> - p)<sup>T</sup> (v<sub>s</sub> - "
    "sum<sub>j</sub> a<sub>j</sub> v<sub>j</sub>)."
  ),
  "steps": (
    "The attention matrix W<sub>KQ</sub> is finetuned on facts of one set, while the value matrix "
    "W<sub>V</sub> stays as it is; questions are about subjects of none of the sets. Bands are "
    "{level} intervals. Halves are by how often the corpus names the subject; fifths by the "
    "salience of the facts of each relation."
  ),
  "question": (
    "As above, but questions name the relation by a token that resembles the one that pretraining "
    "knew only in part (cosine {question})."
  ),
  "popularity": (
    "Share right after the last step. The theory says that the two solid lines lie further apart "
    "the further to the right, where subjects are less popular."
  ),
  "phases": (
    "Differences in accuracy, in percentage points, on subjects that were not finetuned on; bold "
    "where the {level} interval excludes 0; red is harm. First row of panels: how much worse the "
    "unpopular half is than the popular one. Second: how much worse it is than no finetuning. The "
    "finetuned subjects are drawn from each half at random. With a larger exponent fewer facts are "
    "known at all, so rows differ in that too; the next pictures keep one exponent and vary how "
    "well facts are known."
  ),
  "begins": (
    "When finetuning on so many subjects of the unpopular half begins to harm those that were not "
    "finetuned on: the first measured step from which on the {level} interval of the difference "
    "lies above 0; a dash where it does not at the last step."
  ),
  "stored": (
    "Each point is another length of pretraining, the longest to the right. Where the first panel "
    "is below 0, the unpopular half is the better one to finetune on."
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
