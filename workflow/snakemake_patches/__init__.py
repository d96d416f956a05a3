"""Changes to Snakemake and to its SLURM plugin, each for one version, made while a Snakefile is read."""

from . import core, outputs, slurm


def apply(kept_outputs=()):
    """Makes all changes, in this process.

    Args:
        kept_outputs (iterable of str): the rules whose old outputs stay until a job replaces them.
    """
    core.apply()
    slurm.apply()
    outputs.apply(kept_outputs)
