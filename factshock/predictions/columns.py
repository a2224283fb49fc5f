"""The flag --columns of all verbs that read predictions files."""

from absl import flags

from factshock.predictions import foreign

flags.disclaim_key_flags()  # --help of a verb lists the flag among its own


def define_flag() -> None:
  """Defines the flag."""
  flags.DEFINE_list(
    "columns",
    [],
    "Names of the predictions files' columns that differ from ours: "
    "subject=question,object=answer,prediction=text.",
  )


def given() -> dict[str, str]:
  """Returns our names of columns -> the files', as the flag says.

  Raises:
    UserError: it is not written so.
  """
  return foreign.parse_columns(flags.FLAGS.columns)
