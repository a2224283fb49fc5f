"""Pages and plots of what the diagnosis found. No JAX."""
