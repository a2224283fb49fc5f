"""Facts: their schema and readers, the synthetic world, splits and entity counts. No JAX."""
