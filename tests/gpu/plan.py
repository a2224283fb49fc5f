"""What is measured, in the order of its worth, and what is aimed at."""

from gpu.results import OURS, Goal, Measurement

EAGER = "PyTorch eager"
COMPILED = "PyTorch compiled"
TRANSFORMERS = "transformers"

# As training.drivers.GPU_OPTIONS, which pmap does not take.
_WITHOUT_SLICE_FUSION = {"XLA_FLAGS": "--xla_gpu_enable_dynamic_slice_fusion=false"}
# Over a hundred small programs, which would be tuned for minutes: their numbers count alone.
_UNTUNED = {"XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"}
_DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}

ORDER = (
  Measurement("ceilings", "product and copy", limit=60),
  Measurement("parity", "T5", limit=120, environment=_UNTUNED),
  Measurement("train_step", "T5 large"),
  Measurement("generation", "T5 large"),
  Measurement("generation", "T5 large", TRANSFORMERS),
  Measurement("train_step", "Llama 7B, LoRA"),
  Measurement("parity", "decoder", limit=120, environment=_UNTUNED),
  Measurement("ranking", "T5 large"),
  Measurement("train_step", "T5 large", COMPILED, limit=120),
  Measurement("train_step", "T5 xl"),
  Measurement("train_step", "Llama 7B, all"),
  Measurement("ranking", "T5 large", TRANSFORMERS, limit=60),
  Measurement("train_step", "Llama 7B, LoRA", COMPILED, limit=120),
  Measurement("generation", "Llama 1B"),
  Measurement("generation", "Llama 1B", TRANSFORMERS),
  Measurement("train_step", "T5 xl", COMPILED, limit=120),
  Measurement("train_step", "Llama 7B, all", COMPILED, limit=120),
  Measurement("saving", "Llama 7B", limit=120),
  Measurement("resuming", "train, killed once", limit=150),
  Measurement("train_step", "T5 large, attention by XLA"),
  Measurement("train_step", "T5 large, deterministic", environment=_DETERMINISTIC),
  Measurement("train_step", "T5 large, pmap", environment=_WITHOUT_SLICE_FUSION),
  Measurement("train_step", "T5 large, mesh"),
  Measurement("train_step", "T5 large, unrolled", limit=240),
  Measurement("ranking", "Llama 1B"),
  Measurement("ranking", "Llama 1B", TRANSFORMERS, limit=60),
  Measurement("studies", "smollm2_135m", limit=480),
  Measurement("studies", "gemma3_270m", limit=480),
  Measurement("studies", "trex_t5", limit=300),
  Measurement("train_step", "T5 large", EAGER),
  Measurement("train_step", "Llama 7B, LoRA", EAGER),
)

PARTS = tuple(sorted({measurement.part for measurement in ORDER}))

GOALS = (
  Goal("train_step", "T5 large", 0.45),
  Goal("train_step", "T5 xl", 0.45),
  Goal("train_step", "Llama 7B, LoRA", 0.5),
  Goal("train_step", "Llama 7B, all", 0.5),
  Goal("generation", "T5 large", 5.0, TRANSFORMERS),
  Goal("generation", "Llama 1B", 5.0, TRANSFORMERS),
  Goal("ranking", "T5 large", 10.0, TRANSFORMERS),
  Goal("ranking", "Llama 1B", 10.0, TRANSFORMERS),
)
__all__ = ["COMPILED", "EAGER", "GOALS", "ORDER", "OURS", "PARTS", "TRANSFORMERS"]
