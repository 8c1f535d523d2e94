"""Trainers of revisers and verifiers."""
