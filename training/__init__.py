"""Training, recording, evaluation and the command line."""
