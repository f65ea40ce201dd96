"""What the tests and the benchmarks run on: brokers and waits, no assertions."""
