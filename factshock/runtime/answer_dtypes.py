"""What a model may be computed in when it answers: names, and the flag that chooses."""

from absl import flags

INT8 = "int8"
NAMES = ("float32", "bfloat16", INT8)

flags.disclaim_key_flags()  # --help of a verb lists the flag among its own


def define_flag() -> None:
  """Defines --answer_dtype."""
  flags.DEFINE_enum(
    "answer_dtype",
    None,
    NAMES,
    "What --model is computed in; default: as its config says, of a pretrained model as its own "
    "files say, on a CPU float32. bfloat16 takes half the memory; int8 (weights, and what they are "
    "multiplied by) a quarter and on a CPU about .8 of the time. Both change some answers.",
  )
