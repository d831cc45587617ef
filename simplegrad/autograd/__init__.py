"""Reverse-mode differentiation as graph → graph rules."""

from simplegrad.autograd import scan_rule as scan_rule  # stands on `backward`, and enters itself
