"""``python -m manual_grad`` is the console script ``manual-grad``."""

from manual_grad.cli.app import main

main()
