"""Check whether everything that a sweep needs exists: ``python -m sweep.doctor``."""

from sweep.doctor.cli import main

__all__ = ["main"]
