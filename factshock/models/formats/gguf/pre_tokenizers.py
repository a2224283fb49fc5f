"""How text is cut before byte-level BPE, by the name that a GGUF file gives it.

The names are those of llama.cpp (src/llama-vocab.cpp), the expressions those of the models' own
tokenizers, which llama.cpp spells out for an engine without groups that ignore case.
"""

import dataclasses
import functools

from factshock.runtime import console
from factshock.runtime.errors import UserError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_SLASH_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_LOWER}|{_UPPER}|\p{{N}}|{_SLASH_REST}"
_GPT4O = rf"{_LOWER}{_CONTRACTIONS}?|{_UPPER}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASH_REST}"


@dataclasses.dataclass(frozen=True)
class PreTokenizer:
  """Says how text is cut.

  Attributes:
    expressions: each match is a part of its own, and so is what stands between; one after another.
    ignore_merges: whether a part that is a token is taken whole, whatever the merges give.
    add_bos: whether a text begins with the BOS where the file does not say.
    composed: whether text is brought into Unicode's composed form (NFC).
  """

  expressions: tuple[str, ...]
  ignore_merges: bool = False
  add_bos: bool = False
  composed: bool = False


_DIGITS = PreTokenizer((r"\p{N}", _GPT2))
_PLAIN = PreTokenizer((_GPT2,))
_OF_LLAMA3 = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_OF_CL100K = PreTokenizer((_LLAMA3,))
_OF_QWEN2 = PreTokenizer((_QWEN2,), composed=True)
_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

KNOWN: dict[str, PreTokenizer] = {
  "default": _DEFAULT,
  **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais", "gigachat", "exaone4"), _PLAIN),
  **dict.fromkeys(
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS
  ),
  **dict.fromkeys(
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    _OF_LLAMA3,
  ),
  **dict.fromkeys(("dbrx", "smaug-bpe"), _OF_CL100K),
  **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "f2llmv2"), _OF_QWEN2),
  "stablelm2": PreTokenizer((_QWEN2,)),
  "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
  **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), PreTokenizer((_GPT4O,))),
}


def named(name: str | None, path: str) -> PreTokenizer:
  """Returns the pre-tokenizer of a name; a file without one gets llama.cpp's default.

  Args:
    name: as the file has it.
    path: the file, for errors.

  Raises:
    UserError: it is not supported; says which are.
  """
  if name is None:
    _warn(path)
    return _DEFAULT
  if name not in KNOWN:
    raise UserError(
      f"{path}: the pre-tokenizer {name!r:.60} is not supported; supported are {', '.join(KNOWN)}; "
      "say --tokenizer=FOLDER to take the tokenizer of the model's own folder"
    )
  return KNOWN[name]


@functools.cache
def _warn(path: str) -> None:
  console.say_once(
    f"{path}: does not say how text is cut into words (tokenizer.ggml.pre); llama.cpp's default is "
    "taken, which may not be the model's own: convert the model again where answers look wrong"
  )
