"""The mathematics: one file a topic, each forward pass and its hand-derived backward pass side by side."""
