"""Data to train on, and the training loop."""
