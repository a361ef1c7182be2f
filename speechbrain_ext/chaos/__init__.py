"""Fault injection: what survives a bad batch or a corrupted state, what does not."""
