"""The two loops, fine-tuning and pre-training, with their run folders, losses and optimisers."""
