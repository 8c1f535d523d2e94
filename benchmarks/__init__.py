"""Benchmarks: functions that measure once and return figures by name."""

Figures = dict[str, float]
