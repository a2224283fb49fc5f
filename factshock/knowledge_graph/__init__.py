"""Triples with calibrated confidence, and the formats that other tools read. No JAX."""
