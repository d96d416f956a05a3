"""How far a long step has come: lines for a log, a bar for a person."""

import sys

from tqdm import tqdm


def bar(total, description):
    """A progress bar of `total` steps on a terminal; elsewhere it prints nothing."""
    return tqdm(
        total=total, desc=description, leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty()
    )


def line(text):
    """One line to the log, clear of any bar."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds):
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
