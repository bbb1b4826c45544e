"""From labels and probabilities to figures with intervals, thresholds and calibration."""
