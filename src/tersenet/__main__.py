"""`python -m tersenet`."""

import sys

from tersenet.cli import main

if __name__ == "__main__":
    sys.exit(main())
