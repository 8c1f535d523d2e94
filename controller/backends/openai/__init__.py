"""Models behind servers that speak OpenAI's API."""
