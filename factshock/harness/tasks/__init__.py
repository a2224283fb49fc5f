"""Task files for the lm-evaluation-harness.

`--include_path` names this folder; factshock.evaluate gives it by itself.
"""
