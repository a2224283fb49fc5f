"""Train steps of this package and of PyTorch transformers, run by tests/benchmarks/gpu.py."""

import functools

import numpy as np

T5, LLAMA = (512, 114), (512, 0)
ROWS = {  # name: (family, sizes, lengths, batches to try, what is trained)
  "T5 large": (
    "t5",
    dict(d_model=1024, d_ff=2816, num_heads=16, layers=24),
    T5,
    (64, 32, 16, 8),
    "all",
  ),
  "T5 xl": (
    "t5",
    dict(d_model=2048, d_ff=5120, num_heads=32, layers=24),
    T5,
    (32, 16, 8, 4),
    "all",
  ),
  "T5 base": (
    "t5",
    dict(d_model=768, d_ff=2048, num_heads=12, layers=12),
    T5,
    (128, 64, 32, 16),
    "all",
  ),
  "Llama 7B, LoRA": (
    "llama",
    dict(d_model=4096, d_ff=11008, num_heads=32, layers=32),
    LLAMA,
    (16, 8, 4, 2),
    "lora",
  ),
  "Llama 7B, all": (
    "llama",
    dict(d_model=4096, d_ff=11008, num_heads=32, layers=32),
    LLAMA,
    (8, 4, 2, 1),
    "all",
  ),
}


def row_of(name, tiny):
  family, sizes, lengths, batches, trained = ROWS[name]
  if tiny:
    sizes, lengths, batches = (
      dict(d_model=32, d_ff=64, num_heads=2, layers=2),
      (16, 8 if lengths[1] else 0),
      (4, 2),
    )
  return (
    family,
    {**sizes, "vocab_size": (256 if tiny else 32128 if family == "t5" else 32000)},
    lengths,
    batches,
    trained,
  )


def random_batch(family, sizes, lengths, rows):
  random = np.random.default_rng(0)
  draw = lambda length: random.integers(2, sizes["vocab_size"], (rows, length)).astype(np.int32)
  if family == "llama":
    return {"tokens": draw(lengths[0]), "weights": np.ones((rows, lengths[0]), np.float32)}
  return {
    "inputs": draw(lengths[0]),
    "targets": draw(lengths[1]),
    "weights": np.ones((rows, lengths[1]), np.float32),
  }


def our_config(family, sizes):
  from factshock.models import decoder, t5

  depth, sizes = sizes["layers"], {name: size for name, size in sizes.items() if name != "layers"}
  width = 64 if family == "t5" else sizes["d_model"] // sizes["num_heads"]
  if family == "t5":
    return t5.T5Config(
      **sizes, d_kv=width, encoder_layers=depth, decoder_layers=depth, dtype="bfloat16"
    )
  return decoder.LlamaConfig(
    **sizes,
    d_kv=width,
    num_kv_heads=sizes["num_heads"],
    layers=depth,
    dtype="bfloat16",
    param_dtype="bfloat16",
  )


def our_parts(family, sizes, trained):
  """(loss of (trained, batch=, key=, frozen=), optimizer, function of a key that gives (trained,
  frozen or None)).
  """
  from factshock.models import families, lora
  from factshock.training import optimizers, train_step

  config = our_config(family, sizes)
  init = functools.partial(families.of(config).init, config)
  if trained == "all":
    loss = functools.partial(train_step.loss_fn, model_config=config)
    optimizer = {"optimizer": "adafactor" if family == "t5" else "adamw", "learning_rate": 1e-4}
    return (
      loss,
      optimizers.make_optimizer(optimizers.OptimizerConfig.of(optimizer)),
      lambda key: (init(key), None),
    )

  def adapted(adapters, frozen, **arguments):
    return train_step.loss_fn(lora.attach(frozen, adapters, 2.0), config, **arguments)

  def both(key):
    params = init(key)
    return lora.init(params, key, 16, ("query", "key", "value", "out")), params

  return adapted, optimizers.make_optimizer(optimizers.OptimizerConfig("adamw", 1e-4)), both


@functools.cache
def needed(name, tiny=False):
  """(FLOPs a row of a batch, bytes read and written of weights and optimizer state a step), from
  shapes alone.
  """
  import jax

  from factshock.models import products
  from factshock.training import dry_run, flops, train_step

  family, sizes, lengths, _, trained = row_of(name, tiny)
  loss, optimizer, init = our_parts(family, sizes, trained)
  params, frozen = jax.eval_shape(init, jax.random.key(0))
  batch = random_batch(
    family, sizes, lengths, 1
  )  # one row: its logits are small, and not made twice in the backward pass
  more = {} if frozen is None else {"frozen": frozen}
  gradient = lambda params, more: jax.grad(
    lambda params: loss(params, batch=batch, key=None, **more)[0]
  )(params)
  with products.counted():
    made = flops.step_flops(gradient, params, more)
  state = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  return made, 2 * dry_run.tree_bytes(state) + dry_run.tree_bytes(frozen)


def our_runner(family, sizes, lengths, trained, rows):
  """A function that takes a step of ours and returns its loss."""
  import jax

  from factshock.training import train_step

  loss, optimizer, init = our_parts(family, sizes, trained)
  params, frozen = jax.jit(init)(jax.random.key(0))
  held = [train_step.init_state(params, optimizer)]
  del params
  batch = jax.device_put(random_batch(family, sizes, lengths, rows))
  step = jax.jit(train_step.make_train_step(loss, optimizer), donate_argnums=0)

  def run():
    held[0], metrics = step(
      held[0], batch, jax.random.key(1), *(() if frozen is None else (frozen,))
    )
    return float(metrics["loss"])

  return run


def torch_model(family, sizes, trained):
  import transformers

  shared = dict(vocab_size=sizes["vocab_size"], pad_token_id=0)
  if family == "t5":
    return transformers.T5ForConditionalGeneration(
      transformers.T5Config(
        **shared,
        d_model=sizes["d_model"],
        d_kv=64,
        d_ff=sizes["d_ff"],
        num_layers=sizes["layers"],
        num_heads=sizes["num_heads"],
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
      )
    )
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      **shared,
      hidden_size=sizes["d_model"],
      intermediate_size=sizes["d_ff"],
      num_hidden_layers=sizes["layers"],
      num_attention_heads=sizes["num_heads"],
      num_key_value_heads=sizes["num_heads"],
      use_cache=False,
    )
  )
  if trained == "all":
    return model
  import peft

  targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
  return peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=targets))


def torch_runner(family, sizes, lengths, trained, rows, compiled, device):
  """The same of PyTorch transformers, bfloat16 throughout."""
  import torch

  torch.set_default_dtype(torch.bfloat16)
  with torch.device(device):
    model = torch_model(family, sizes, trained).train()
  batch = {
    name: torch.tensor(array, dtype=torch.long, device=device)
    for name, array in random_batch(family, sizes, lengths, rows).items()
    if name != "weights"
  }
  arguments = (
    dict(input_ids=batch["inputs"], labels=batch["targets"])
    if family == "t5"
    else dict(input_ids=batch["tokens"], labels=batch["tokens"])
  )
  moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
  optimizer = torch.optim.AdamW(moving, lr=1e-4, weight_decay=0.0, fused=True)
  call = torch.compile(model) if compiled else model

  def run():
    loss = call(**arguments).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  return run
