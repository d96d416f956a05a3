"""`python -m kafnets`: see :mod:`kafnets.command`."""

from .command import run

run()
