"""Skip collecting examples that need PyTorch if it is not installed."""

import importlib.util

NEEDING_TORCH = ["manual_grad/checker/pytorch.py", "manual_grad/checker/tensors.py"]
collect_ignore = [] if importlib.util.find_spec("torch") else NEEDING_TORCH
