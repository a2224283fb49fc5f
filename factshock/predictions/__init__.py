"""The predictions file: its rows, their reading and writing, accuracy, prior correction. No JAX."""
