"""A tool-calling agent that lives on your own machine."""
