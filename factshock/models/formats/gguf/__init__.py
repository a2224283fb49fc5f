"""Models in the GGUF format of llama.cpp: metadata, tensors and tokenizer, read and never written.

A file stands for a HuggingFace folder: its metadata become a config.json, its tensors get the names
and the layout that HuggingFace gives them, and its vocabulary becomes a tokenizer.json.
"""
