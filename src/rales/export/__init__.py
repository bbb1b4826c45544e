"""One artefact from waveform to probabilities, checked against the network it was made from; engines that run it."""
