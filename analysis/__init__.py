"""From checkpoints to conclusions: instances, morphology, statistics, figures, report."""
