# Where this workflow lies, also where it is a module of another one: its scripts, its library and its configuration are
# files beside each other, so of one that is named by a git repository (github(), gitfile()) a checkout is made.
import os
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.sourcecache import HostingProviderFile, LocalGitFile, LocalSourceFile

IS_MODULE = not workflow.modifier.is_main_snakefile()


def folder_of(source):
    """The folder that a Snakefile names, or that folder in a checkout of its repository below .snakemake/."""
    if isinstance(source, LocalSourceFile):
        return Path(os.path.abspath(source.get_path_or_uri(secret_free=False)))
    if isinstance(source, LocalGitFile):
        repository = source.repo_path
    elif isinstance(source, HostingProviderFile):
        repository = source.hosted_repo.repo_clone
    else:
        raise WorkflowError(
            f"{source}: this workflow is many files; name it by a local path, github(...) or gitfile(...)"
        )
    return checkout(repository, source.ref) / source.path


def checkout(repository, ref):
    """A clone of a git repository as it is at `ref`, made once; so records know their commit."""
    import git

    commit = git.Repo(repository).commit(ref).hexsha
    folder = Path(".snakemake", "kafnets", commit).absolute()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            clone = git.Repo.clone_from(
                os.path.abspath(repository), f"{scratch}/clone", no_checkout=True
            )
            clone.git.checkout("--detach", commit)
            clone.close()
            try:
                os.rename(f"{scratch}/clone", folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
    return folder


ROOT = folder_of(workflow.current_basedir.join("../.."))

# That of the working directory, if it has one, else the one of this workflow; a module's configuration overlays that.
CONFIG = "config.yaml"
if IS_MODULE or not os.path.exists(CONFIG):
    CONFIG = str(ROOT / CONFIG)

if workflow.modifier.modify_path("a") != "a":
    raise WorkflowError(
        "module: this workflow takes no prefix; name its folder by `output` in its configuration"
    )
