"""Simulated breath sounds and databases of them."""
