import multiprocessing
import time

import pytest
from kafnets.data import prepare_digits, save

from tests.scripts import complete, outcome


@pytest.fixture(scope="session")
def context():
    """Processes that have torch already: a fault costs a second, not the import too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "kafnets.training", "kafnets.data", "kafnets.models", "tqdm"])
    return context


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    save(prepare_digits(), folder / "digits.safetensors", folder / "digits.json")
    return folder / "digits.safetensors"


@pytest.fixture(scope="session")
def undisturbed(context, data, tmp_path_factory):
    """By activation: what a training comes to that nothing disturbs, and its seconds."""
    outcomes = {}
    for activation in ("relu", "kaf"):
        folder = tmp_path_factory.mktemp(activation)
        started = time.monotonic()
        complete(context, folder, data, activation)
        outcomes[activation] = outcome(folder), time.monotonic() - started
    return outcomes
