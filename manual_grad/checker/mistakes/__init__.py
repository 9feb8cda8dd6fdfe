"""The mistakes that the checker knows, one file a family."""
