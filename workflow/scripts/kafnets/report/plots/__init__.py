"""Figures as pure functions of records: each module draws one kind and returns a matplotlib figure."""

from ...runtime.errors import optional

optional("matplotlib", "plots")
