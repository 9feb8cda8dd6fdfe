"""The console script, one file a command."""
