"""Trainings: settings, preparation, PPO, resumption."""
