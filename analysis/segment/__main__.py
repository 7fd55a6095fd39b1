"""``python -m analysis.segment --model MODEL IMAGES... --out DIR``."""

import sys

from analysis.segment.cli import main

if __name__ == "__main__":
    sys.exit(main())
