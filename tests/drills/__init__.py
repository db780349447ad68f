"""Drills: real processes whose box, hub or disk is taken back to its past, which must be fenced."""
