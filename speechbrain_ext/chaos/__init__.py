"""Fault injection: what survives a bad batch or a corrupted state, and what does not."""
