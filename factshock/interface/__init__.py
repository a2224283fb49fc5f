"""Steps that the verbs and the Python API share, and what the API takes and gives back."""
