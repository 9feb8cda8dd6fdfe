"""Skip collecting examples that need PyTorch if it is not installed."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("torch") else ["manual_grad/checker/pytorch.py"]
