"""Plane 4, what happened: metrics and logs."""
