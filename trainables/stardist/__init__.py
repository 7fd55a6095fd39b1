"""StarDist's own model, in a separate process. Imports neither torch nor TensorFlow."""
