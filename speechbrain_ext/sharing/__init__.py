"""A trained model leaves the house: formats that others can run."""
