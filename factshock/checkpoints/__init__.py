"""What is stored of a model: checkpoints, their interpolation and conversion."""
