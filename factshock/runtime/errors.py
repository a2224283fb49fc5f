"""Errors that every module may raise."""


class UserError(ValueError):
  """Something the user can put right: printed as one line, without a traceback; exit code 2."""
