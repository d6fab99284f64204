"""``python -m ttcore``: the command line."""

import sys

from ttcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
