"""Attacks: what may go wrong around Rales, done to it on purpose; `make test-slow` runs them, each prints its figures.

`kill.py` ends a command at every file event, in the middle of writes and at random times, gives it again and compares;
`full_disk.py` runs commands on disks that are too small; `interrupt.py` sends them INT, TERM and HUP. Each can be run
alone (`python -m tests.attack.kill --help`), for one case and one trial.

RALES_ATTACK (1.0) multiplies the number of trials of these three, 0.1 is a tenth of them; RALES_ATTACK_CASES
(train,batch) takes some cases only. The last column of the tables is processor time: on idle cores an attack takes its
sum, divided by two, since two cases run at a time.
"""
