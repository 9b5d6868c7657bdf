"""Training passes for processors with matrix tiles or AVX512-BF16, faster than PyTorch's own."""
