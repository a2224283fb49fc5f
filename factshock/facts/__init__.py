"""What is true: the fact schema, readers, the synthetic world, splits and entity counts. No JAX."""
