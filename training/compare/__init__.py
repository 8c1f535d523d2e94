"""Controllers and rules side by side on recorded questions."""
