"""The report of speaker verification: errors, their intervals, and who is confused."""
