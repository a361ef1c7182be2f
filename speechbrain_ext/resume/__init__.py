"""Going on in an experiment: what may change on the way, and what was changed."""
