"""Diagnosis of predictions files: accuracy, frequency shock, calibration, LM-KBC scores. No JAX."""
