"""The systems: one file each, with everything of that system."""
