"""Judges gradients: compares every claim of the lectures with the oracles in ``reference/``."""
