"""Compiled loops over pixels, and nothing else."""
