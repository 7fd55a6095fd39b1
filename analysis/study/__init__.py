"""From a run folder to evidence: calibrate, measure, compare."""
