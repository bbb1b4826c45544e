"""From a recording to probabilities per breathing cycle, explanations, neighbours and the files that hold them."""
