"""The kernel IR: symbolic extents, index algebra, what a kernel computes, and its checks."""
