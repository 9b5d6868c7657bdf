"""The quantization report: builds of one model side by side, and what each step down costs."""
