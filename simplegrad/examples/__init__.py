"""Examples: ``python -m simplegrad.examples.NAME``."""
