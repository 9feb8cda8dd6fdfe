"""The mathematics: one file per topic, each forward pass and its hand-derived backward pass side by side."""
