"""The mirror in the branch: it keeps its boxes' journals, cosigns them, gives them back (DESIGN §8)."""
