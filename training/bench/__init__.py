"""Benchmarks: each module has a `run` that measures and returns what it found."""
