"""Measures channel layers against each other, in one run on one machine: python -m benchmarks."""
