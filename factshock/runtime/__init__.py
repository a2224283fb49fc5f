"""Base of all packages: errors, progress, interruption, processes, files, locks. No JAX."""
