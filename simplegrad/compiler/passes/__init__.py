"""From graph nodes to kernels in the IR: recognise, canonicalise, fuse, lower, settle."""
