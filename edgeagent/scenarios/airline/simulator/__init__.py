"""Scripted customers and a scripted expert for the airline desk: episodes that teach."""
