"""From a graph to OpenCL C: a visible list of passes over a small IR."""
