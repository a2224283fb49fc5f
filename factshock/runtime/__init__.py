"""What every part may use: errors, progress, interruption, processes, files and locks. No JAX."""
