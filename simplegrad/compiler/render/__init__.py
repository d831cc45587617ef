"""From the kernel IR to OpenCL C, for the CPU and the GPU family."""
