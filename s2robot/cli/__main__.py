"""`python -m s2robot.cli`: the same as the console script."""

import sys

from s2robot.cli import main

if __name__ == "__main__":
    sys.exit(main())
