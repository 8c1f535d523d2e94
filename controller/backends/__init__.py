"""Where attempts come from."""
