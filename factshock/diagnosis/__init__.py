"""What the answers show: accuracy, frequency shock and statistics over predictions files. No JAX."""
