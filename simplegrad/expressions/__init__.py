"""Expressions of functions, as text, LaTeX and NumPy source."""
