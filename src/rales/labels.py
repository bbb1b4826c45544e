"""The four classes of a breathing cycle, in the order of every table, matrix and network of the package."""

from typing import Final

CLASSES: Final = ("normal", "crackle", "wheeze", "both")
