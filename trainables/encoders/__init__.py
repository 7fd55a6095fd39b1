"""Encoders: their names, those that we add, and the weights they start from. Imports no torch."""
