"""Plane 3, what a request means: the gateway service, the ways in, the vault."""
