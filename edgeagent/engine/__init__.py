"""The only place that knows llama.cpp and llguidance."""
