"""Edits of the user's own code: which change of one line makes a wrong gradient right."""
