"""Settings as params of rules: Snakemake's reason why a job runs again is short and tells what changed."""

import hashlib
import json

MOST_SHOWN = 160  # characters of one setting


def checksum(text):
    """A text's SHA-256 in hexadecimal, its first 16 digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_params(of_job, section=None):
    """The settings of a rule's jobs in a few params: Snakemake prints those that changed, old and new.

    As one text all would be printed, twice; as a param each, a large grid would take a third longer to plan.
    The text of all of them for the command line is the param `settings`, which Snakemake does not compare,
    because it is a function of `output` too.

    Args:
        of_job: function of a job's wildcards that returns its settings, JSON values.
        section: the key of a mapping among them with many settings of its own.

    Returns:
        dict: names and functions of the wildcards; those that are compared hold together every setting.
    """

    def outer(settings):
        return {key: value for key, value in settings.items() if key != section}

    def inner(settings):
        return settings.get(section, {})

    def part(chosen, nested):
        return lambda wildcards: in_words(chosen(of_job(wildcards)), nested)

    named = {"settings": outer, **({section: inner} if section else {})}
    compared = {
        f"{name}_{'nested' if nested else 'plain'}": part(chosen, nested)
        for name, chosen in named.items()
        for nested in (False, True)
    }
    return {**compared, "settings": lambda wildcards, output: json.dumps(of_job(wildcards))}


def in_words(settings, nested):
    """Of some settings the mappings and lists, or all others; a long one by its checksum."""
    return ", ".join(
        _one(key, json.dumps(value))
        for key, value in settings.items()
        if isinstance(value, dict | list) is nested
    )


def _one(key, text):
    return f"{key}: {text}" if len(text) <= MOST_SHOWN else f"{key}: of checksum {checksum(text)}"
