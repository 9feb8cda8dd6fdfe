"""``python -m benchmarks`` is ``manual-grad bench``."""

import sys

from manual_grad.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
