"""`python -m rales` is the command `rales` (torchrun starts it so)."""

from rales.cli import main

main()
