"""How good predictions are: maps, calibration, scores per object, selection by validation."""
