"""What a trial leaves on disk: whole files, manifests, progress, saved states. Imports no torch."""
