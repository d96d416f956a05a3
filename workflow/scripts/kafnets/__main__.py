"""`python -m kafnets`: see :mod:`kafnets.command`."""

from .command import run

if __name__ == "__main__":
    run()
