"""From a Hugging Face checkpoint to GGUF builds; runnable modules, one idea each."""
