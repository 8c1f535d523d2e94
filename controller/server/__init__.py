"""An OpenAI-compatible service in front of a ladder of models."""
