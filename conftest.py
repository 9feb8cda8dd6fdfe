"""What is not collected: examples that need PyTorch, where it is not installed."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("torch") else ["manual_grad/checker/pytorch.py"]
