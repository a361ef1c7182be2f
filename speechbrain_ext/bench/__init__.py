"""Speed and memory against the real packages from PyPI, side by side."""
