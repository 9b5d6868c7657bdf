"""The embedded model: data, tokenizer, training and export, each a runnable module."""
