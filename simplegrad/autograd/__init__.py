"""Reverse-mode differentiation as graph → graph rules."""
