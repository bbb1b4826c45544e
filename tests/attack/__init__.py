"""Attacks on what the documents promise; each prints how often it tried and how often it found something."""
