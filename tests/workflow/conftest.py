import pytest

from tests.planner import Planner


@pytest.fixture(scope="session")
def plan(tmp_path_factory):
    """A function: the words of a snakemake in a folder that ends before any job, such as of a dry run.

    Of many it costs half of what as many processes do that import Snakemake, each anew.
    """
    log = tmp_path_factory.mktemp("planner") / "log"
    with Planner() as planner:

        def plan(folder, *arguments, code=0):
            ended, words = planner.run(folder, log, *arguments)
            assert ended == code, words[-6000:]
            return words

        yield plan
