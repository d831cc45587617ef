"""Lazy, immutable graph nodes: what was asked for, not yet how it is computed."""
