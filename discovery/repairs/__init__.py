"""Repairs: a model and what was found about it → a model that leans less on it."""
