"""The Ray cluster: connecting, choosing nodes, and checking that they can read the run folder."""
