"""``python -m segue`` is ``segue``."""

import sys

from segue.launcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
