"""HuggingFace folders of a T5 and a Llama with random weights and their tokenizers, as transformers
saves them.
"""

import hf_llama
import hf_t5
import hf_tokenizers

from factshock.data import pretrained_tokenizers
from factshock.models import decoder, t5


def make(folder, lines, max_length=256):
  """Writes folder/t5 and folder/llama, whose tokenizers know `lines`."""
  lines = lines + hf_tokenizers.LINES
  size = pretrained_tokenizers.load(hf_tokenizers.t5_like(folder / "t5", lines=lines)).size
  hf_t5.peer(
    t5.T5Config(
      vocab_size=size + 4,
      d_model=16,
      d_ff=24,
      num_heads=2,
      d_kv=8,
      encoder_layers=2,
      decoder_layers=2,
    )
  ).save_pretrained(folder / "t5")
  size = pretrained_tokenizers.load(hf_tokenizers.llama_like(folder / "llama", lines=lines)).size
  hf_llama.peer(
    decoder.LlamaConfig(
      vocab_size=size,
      d_model=16,
      d_ff=24,
      num_heads=4,
      num_kv_heads=2,
      d_kv=4,
      layers=2,
      max_length=max_length,
    )
  ).save_pretrained(folder / "llama")
