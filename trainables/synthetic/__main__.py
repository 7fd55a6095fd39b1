"""``python -m trainables.synthetic OUT``."""

import sys

from trainables.synthetic.dataset import main

if __name__ == "__main__":
    sys.exit(main())
