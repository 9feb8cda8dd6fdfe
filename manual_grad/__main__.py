"""``python -m manual_grad`` is the console script ``manual-grad``."""

from manual_grad.cli import main

main()
