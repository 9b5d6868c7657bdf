"""Invented conversations for the restaurant guide, and the words they are made of."""
