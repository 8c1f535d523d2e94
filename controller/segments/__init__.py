"""Control inside one attempt: segment by segment."""
