"""Benchmarks: functions that measure once and return figures by name."""
