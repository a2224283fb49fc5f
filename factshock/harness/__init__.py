"""The bridge to the lm-evaluation-harness: our models as its LM, and tasks on facts (extra `lm_eval`)."""
