"""Data sets, and networks that learn with the hand-derived gradients."""
