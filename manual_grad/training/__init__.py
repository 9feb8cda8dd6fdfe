"""Data to train on, and the training that the lectures end in."""
