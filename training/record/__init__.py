"""Recordings of attempts by models."""
