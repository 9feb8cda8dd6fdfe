"""Check a user's gradient, and say what is wrong with it."""
