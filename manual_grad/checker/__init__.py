"""Checks anyone's gradient, and says what is wrong with it."""
