"""Kernels whose loops stand in ``kernels/``: what fits each, and how its holes are filled."""
