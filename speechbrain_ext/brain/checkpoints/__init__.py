"""Checkpoints that are whole, finite, and never the wrong one."""
