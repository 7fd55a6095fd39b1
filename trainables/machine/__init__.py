"""What this machine offers: cores, instructions, reachable addresses. Imports no torch."""
