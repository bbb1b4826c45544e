"""`rales.metrics.icbhi_scores` and its neighbours under their public name."""

from rales.evaluation.metrics import *  # noqa: F403
