"""What a batch may move, kept so that it can be put back."""
