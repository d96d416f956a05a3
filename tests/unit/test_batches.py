from itertools import pairwise

import pytest
import torch
from kafnets.runtime.errors import UserError
from kafnets.runtime.interruption import Interrupted
from kafnets.training.augmentation import crop_flip
from kafnets.training.batches import Resident, Streamed, create_batches
from kafnets.training.run import train
from training_cases import CPU, NOISE, StopAt, same, settings, weights


def test_crop_flip_moves_whole_images():
    images = torch.arange(1, 33, dtype=torch.uint8).expand(64, 3, 32, 32)  # each column has its own value
    torch.manual_seed(0)
    moved = crop_flip(images)
    assert moved.shape == images.shape and moved.dtype == torch.uint8
    seen = set()
    for image in moved:
        rows = {tuple(row.tolist()) for channel in image for row in channel if row.any()}
        assert len(rows) == 1  # all rows moved alike
        row = rows.pop()
        inside = [value for value in row if value]
        direction = inside[1] - inside[0]
        assert all(b - a == direction for a, b in pairwise(inside)) and abs(direction) == 1
        seen.add((direction, inside[0]))
    assert {direction for direction, _ in seen} == {1, -1} and len(seen) > 8


def test_every_image_is_seen_once_an_epoch():
    batches = create_batches(settings(), NOISE, CPU)
    first, second = (torch.cat(list(batches.epoch(number))).tolist() for number in range(2))
    assert sorted(first) == sorted(second) == list(range(28)) and first != second
    assert [len(rows) for rows in batches.epoch(0)] == [8, 8, 8, 4] and batches.steps_per_epoch == 4


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(UserError, match="batch_size: 29 is more than the 28 training images; write at most"):
        create_batches(settings(batch_size=29), NOISE, CPU)
    assert create_batches(settings(batch_size=28), NOISE, CPU).steps_per_epoch == 1


# -- a training set that the device does not hold


@pytest.mark.parametrize("augmentation", ["crop_flip", "none"])
def test_streamed_batches_are_those_of_the_resident_set(augmentation):
    chosen = settings(augmentation=augmentation)
    resident, streamed = (create_batches(chosen, NOISE, CPU, streamed=streamed) for streamed in (False, True))
    assert len(streamed.images) == 16 < len(resident.images)
    for epoch, first_step in ((0, 0), (1, 0), (2, 3), (3, 4)):
        counted = 0
        for ours, theirs in zip(
            resident.epoch(epoch, first_step), streamed.epoch(epoch, first_step), strict=True
        ):
            torch.manual_seed(epoch)
            images, labels = resident.take(ours)
            torch.manual_seed(epoch)
            again, same_labels = streamed.take(theirs)
            assert torch.equal(images, again) and torch.equal(labels, same_labels)
            assert images.is_contiguous(memory_format=torch.channels_last) and images.dtype == torch.float32
            counted += 1
        assert counted == 4 - first_step


def test_a_batch_stays_in_its_place_while_the_next_one_is_gathered():
    batches = create_batches(settings(augmentation="none"), NOISE, CPU, streamed=True)
    order = batches.order(0)
    for step, rows in enumerate(batches.epoch(0)):
        expected = NOISE.train_images[order[8 * step : 8 * step + 8]]
        for _ in range(20):
            assert torch.equal(batches.images[rows], expected)


def test_a_stopped_epoch_leaves_nothing_for_the_next():
    batches = create_batches(settings(augmentation="none"), NOISE, CPU, streamed=True)
    stopped = batches.epoch(0)
    next(stopped), next(stopped)
    stopped.close()
    images = [batches.take(rows)[0] for rows in batches.epoch(1)]
    expected = NOISE.train_images[batches.order(1)].to(torch.float32) / 255
    assert torch.equal(torch.cat(images), expected)


def test_an_image_that_cannot_be_read_ends_the_training():
    """Not the thread alone, unseen."""
    batches = create_batches(settings(), NOISE, CPU, streamed=True)
    batches.source = batches.source[0][:5], batches.source[1]
    with pytest.raises(IndexError):
        list(batches.epoch(0))


def test_a_streamed_training_ends_with_the_same_bits(tmp_path, monkeypatch):
    resident, history, _ = train(settings(), NOISE, CPU, tmp_path / "resident")
    with monkeypatch.context() as patch:
        patch.setattr("kafnets.training.run.progress.bar", StopAt(6))
        with pytest.raises(Interrupted):
            train(settings(), NOISE, CPU, tmp_path / "streamed", streamed=True)
    streamed, again, _ = train(settings(), NOISE, CPU, tmp_path / "streamed", streamed=True)
    assert same(weights(resident), weights(streamed))
    assert [row["loss"] for row in history] == [row["loss"] for row in again]


@pytest.mark.parametrize(("memory", "kind"), [(4 * 28 * 3072, Resident), (4 * 28 * 3072 - 1, Streamed)])
def test_a_gpu_holds_what_takes_little_of_its_memory(monkeypatch, memory, kind):
    class Properties:
        total_memory = memory

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr("kafnets.training.batches.Resident", lambda *_: Resident)
    monkeypatch.setattr("kafnets.training.batches.Streamed", lambda *_: Streamed)
    assert create_batches(settings(), NOISE, torch.device("cuda")) is kind
