"""``python -m sweep.doctor [--address ADDR] ...``."""

import sys

from sweep.doctor.cli import main

if __name__ == "__main__":
    sys.exit(main())
