"""Snakemake that looks after its SLURM jobs every two seconds, and not ever less often: a test need not wait.

The plugin waits ten seconds longer after each look that found nothing new.
"""

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

SECONDS = 2


def often(executor, seconds):
    executor._next_seconds_between_status_checks = min(seconds, SECONDS)


RemoteExecutor.next_seconds_between_status_checks = RemoteExecutor.next_seconds_between_status_checks.setter(
    often
)

if __name__ == "__main__":
    main()
