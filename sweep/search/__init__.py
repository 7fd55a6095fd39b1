"""Searches: drawing trials with Optuna, and stopping poor ones early with ASHA."""
