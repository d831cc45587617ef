"""The workloads as users of each library would write them, one file a library."""
