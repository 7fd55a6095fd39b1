"""StarDist's own model, in a process of its own. Imports neither torch nor TensorFlow."""
