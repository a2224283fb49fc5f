"""Our models and tasks on facts in the lm-evaluation-harness (extra `lm_eval`)."""
