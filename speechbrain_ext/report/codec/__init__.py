"""The report of a codec: scores beside Opus, spectrograms, players."""
