"""Files that are written whole or not at all: atomic writes, locks, seals, JSON, CSV cells."""
