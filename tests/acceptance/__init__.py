"""The long proofs: ``make acceptance``."""
