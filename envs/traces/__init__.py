"""Trace sets: recorded attempts, their table, and readers of other tools' logs."""
