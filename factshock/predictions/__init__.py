"""The predictions file: rows, readers and writers, accuracy, prior correction. No JAX."""
