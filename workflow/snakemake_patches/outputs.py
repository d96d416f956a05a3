"""A change to Snakemake: the old outputs of a job that is about to run stay until the job replaces them.

Snakemake removes them first. Our scripts replace them in one step, and those of the rules given to
:func:`apply` check first whether the old outputs are already what they would make. So results that were moved
to a fresh clone are planned again, because Snakemake has no metadata of them there, but not computed again.
(Snakemake's own flag `update` would not do: when a job fails, old outputs are put back and noted as those of
new settings.) A Snakemake without the method below stays as it is: there, what is planned is computed.
"""

from snakemake.jobs import Job

_rules = set()


def apply(rules):
    """Keeps the outputs of the rules with these names."""
    if not _rules and hasattr(Job, "remove_existing_output"):
        Job.remove_existing_output = _but_outputs(Job.remove_existing_output)
    _rules.update(rules)


def _but_outputs(remove):
    async def remove_existing_output(self):
        if self.rule.name not in _rules:
            return await remove(self)
        output, self.output = self.output, []
        try:
            await remove(self)  # its log
        finally:
            self.output = output

    return remove_existing_output
