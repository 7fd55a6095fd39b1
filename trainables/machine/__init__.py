"""What this machine offers: cores, instructions, addresses that answer. Imports no torch."""
