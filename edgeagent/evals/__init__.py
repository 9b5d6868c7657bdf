"""Evaluations: data sets, scorers and their intervals; what they measure is the product itself."""
