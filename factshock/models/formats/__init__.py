"""Other programs' model files: HuggingFace folders and T5X checkpoints."""
