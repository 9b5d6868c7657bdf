"""Lessons for the shop's help desk: scripted customers and a scripted expert, in two languages."""
