"""Which recipes, experiments and results are here."""
