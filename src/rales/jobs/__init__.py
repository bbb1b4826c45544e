"""Jobs of many runs or recordings: sweeps, the paper's tables, batches, layer search, speed."""
