"""Two experiments, recipes or results side by side."""
