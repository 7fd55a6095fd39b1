"""Files for other programs: TrackMate tables, ImageJ ROIs, overlays."""
