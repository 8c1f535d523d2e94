"""Sessions: questions about one context, which can be prepared for while nobody waits."""
