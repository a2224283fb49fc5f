"""Predictions files: their rows, reading and writing, accuracy, prior correction. No JAX."""
