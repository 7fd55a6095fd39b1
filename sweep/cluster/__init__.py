"""The Ray cluster: connecting, which nodes may run what, and whether they see the run folder."""
