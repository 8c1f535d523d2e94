"""Questions, their files, and grading."""
