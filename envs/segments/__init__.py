"""`allot/Segment-v0`: decisions inside one attempt, over recorded trees or live models."""
