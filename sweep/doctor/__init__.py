"""Is everything there that a sweep needs? ``python -m sweep.doctor``."""

from sweep.doctor.cli import main

__all__ = ["main"]
