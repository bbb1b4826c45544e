"""Metrics, confidence intervals, thresholds and calibration, from labels and probabilities."""
