"""``python -m trainables.data check DATA``."""

import sys

from trainables.data.dataset import main

if __name__ == "__main__":
    sys.exit(main())
