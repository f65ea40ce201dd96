"""A long run with random faults that counts every message: ``python -m benchmarks.soak``."""
