"""Processes that share a machine with several GPUs (names in a list) spread over them, also after kill -9."""

import collections
import os
import signal

import pytest
from kafnets.runtime import device, locks

GPUS = ["GPU-a", "GPU-b", "GPU-c"]


def hold(gpus, folder, answer):
    """What a forked process runs: it takes a GPU, says which, and stays until it is killed."""
    answer.send(locks.claim(gpus, folder))
    signal.pause()


class Crowd:
    """Processes that have taken a GPU each."""

    def __init__(self, context, folder):
        self.context, self.folder, self.members = context, folder, []

    def add(self, count, gpus=GPUS):
        """Starts so many at the same time."""
        started = []
        for _ in range(count):
            here, there = self.context.Pipe()
            process = self.context.Process(target=hold, args=(gpus, self.folder, there))
            process.start()
            started.append((process, here))
        for process, here in started:
            assert here.poll(60), "no answer"
            self.members.append((process, gpus[here.recv()]))

    def kill(self, number):
        process, _ = self.members.pop(number)
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    def loads(self):
        return collections.Counter(gpu for _, gpu in self.members)


@pytest.fixture
def crowd(context, tmp_path):
    crowd = Crowd(context, tmp_path)
    yield crowd
    while crowd.members:
        crowd.kill(0)


def test_eight_processes_on_three_gpus(crowd, tally):
    crowd.add(8)
    full = {"GPU-a": 3, "GPU-b": 3, "GPU-c": 2}
    assert crowd.loads() == full
    for number in (5, 0, 3, 3):
        tally.tried("kill -9 of a process that holds a GPU")
        crowd.kill(number)
        crowd.add(1)
        assert crowd.loads() == full, "not the place that became free"
        tally.held("kill -9 of a process that holds a GPU")


def test_all_killed_leave_nothing_behind(crowd):
    crowd.add(6)
    while crowd.members:
        crowd.kill(0)
    crowd.add(3)
    assert set(crowd.loads().values()) == {1}


def test_the_order_in_which_a_process_sees_the_gpus_does_not_matter(crowd):
    """Two snakemakes with different CUDA_VISIBLE_DEVICES."""
    crowd.add(3)
    crowd.add(3, GPUS[::-1])
    assert set(crowd.loads().values()) == {2}
    crowd.add(1, GPUS[1:2])
    assert crowd.loads()[GPUS[1]] == 3


def test_without_a_place_for_locks_processes_still_spread(tmp_path, monkeypatch):
    found = set()
    for number in range(30, 36):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        found.add(locks.claim(GPUS, tmp_path / "absent"))
    assert found == {0, 1, 2}


@pytest.mark.parametrize("kind", ["link", "open to all", "file"])
def test_a_folder_that_others_could_have_made_is_not_used(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"kafnets-gpus-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(OSError):
        locks.private_folder()


def test_one_visible_gpu_is_taken_as_it_is(monkeypatch):
    """SLURM's CUDA_VISIBLE_DEVICES names one: nothing is locked, nothing chosen."""
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(device, "claim", lambda *_: pytest.fail("one GPU needs no choice"))
    assert str(device.resolve("auto")) == str(device.resolve("cuda")) == "cuda"


def test_of_several_visible_gpus_the_claimed_one_is_used(monkeypatch):
    class Properties:
        uuid = "GPU-x"

    chosen = []
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(device.torch.cuda, "get_device_properties", lambda number: Properties)
    monkeypatch.setattr(device.torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(device, "claim", lambda gpus: len(gpus) - 1)
    monkeypatch.setattr(device, "_settled", [])
    assert str(device.resolve("auto")) == "cuda:3" and chosen == [3]
    monkeypatch.setattr(device, "claim", lambda *_: pytest.fail("it has one"))
    assert str(device.resolve("cuda")) == "cuda:3" and chosen == [3, 3]  # another thread's, perhaps
