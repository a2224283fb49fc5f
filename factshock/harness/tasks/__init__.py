"""Task files for the lm-evaluation-harness: `--include_path` of this folder; factshock.evaluate gives it by itself."""
