"""The mistakes that the checker knows, one file per family."""
