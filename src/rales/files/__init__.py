"""Files that are whole or absent: atomic writes, locks, seals, JSON, cells of CSV files."""
