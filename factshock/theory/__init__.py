"""The theory of the second paper: attention to the subject, and how strongly its facts are stored."""
