"""The error of a user's mistake."""


class UserError(ValueError):
  """Something the user can put right: printed as one line, without a traceback; exit code 2."""
