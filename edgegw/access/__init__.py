"""Plane 1, who may speak: SM crypto and keys, signatures, tokens, TLS profiles, the shield."""
