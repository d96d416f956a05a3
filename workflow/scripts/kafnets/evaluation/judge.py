"""How a trained network fares under one attack: the verdict on every test image, and what it cost."""

import time

import torch
from torch.nn import functional

from ..attacks.arguments import as_pixels
from ..attacks.base import default_batch_size, device_of, frozen, is_correct, predict, seeded
from ..attacks.expectation import Expectation
from ..attacks.losses import margins, most_margin
from ..chance import WITHOUT_GRADIENT, is_too_many
from ..entry import RADIUS
from ..registry import ATTACKS, lookup
from ..runtime import checkpoint, turns
from ..runtime.device import exact_convolutions
from ..runtime.errors import UserError, is_out_of_memory
from ..runtime.progress import bar, duration, line
from ..runtime.units import fraction
from .half import differs, half_copy
from .inspection import check_judgeable, fast_copy, sample

# Of a slice of the configuration, what says which cell it is; the rest goes to the attack.
IDENTITY = ("experiment", "activation", "seed", "attack")
_NOT_FOR_ATTACK = (
    *IDENTITY,
    "method",
    "dataset",
    "test_examples",
    "batch_size",
    "device",
    "start_seed",
    "sources",
    "eot_samples",
    "own",
)
# Attacks that go on where they were interrupted; of the others every call is all or nothing.
RESUMABLE = ("pgd", "thesis_pgd")
# Attacks by whose verdict an image may be robust although it is misclassified unperturbed.
NOT_IMPLYING_CLEAN = ("thesis_pgd",)
# What the steps of an attack may be computed in.
PRECISIONS = ("float16", "float32")
# Of the images: how many may stop somewhere for want of a float16 gradient before float16 is given up.
STALLED = 0.01
_SECONDS_BETWEEN_LINES = 20
CHECKPOINT_SECONDS = 300


def evaluate(
    model,
    images,
    labels,
    settings,
    *,
    sources=(),
    batch_size=None,
    precision=None,
    progress=None,
    memory=None,
):
    """Attacks every image and counts what stays rightly classified.

    The attack runs on a faster copy of the network, proved on these images to compute the same up to rounding
    (:func:`.inspection.fast_copy`); else on the network itself. The verdicts are the network's own,
    without TF32: each is its answer to the image that the attack ended with, and where the copy was fooled
    and the network is not, the attack is run again on the network itself.

    On a GPU the steps of the `RESUMABLE` attacks follow the gradients of a float16 copy, where that is proved
    to point the same way (:func:`.half.half_copy`): before the attack on the images, after it on the points
    that withstood it. What it misclassifies counts where the network does too. Where it had no gradient the
    image is attacked again on the network itself; where that is more than 1 % of the images, or the second
    proof fails, all is done anew in float32. A line in the log says so.

    Args:
        model (nn.Module): classifier of images in [0, 1], on the device that shall compute.
        images (Tensor): (N, 3, H, W) uint8.
        labels (Tensor): (N,) int64 true classes.
        settings (dict): a slice of the configuration: `method`, a name of `kafnets.registry.ATTACKS`, and the
            attack's own settings (`eps` and `step` as "n/255" or floats). `start_seed` seeds the attack
            (default 0, so that all networks face the same random starts), and torch's random numbers for a
            network that draws some. `eot_samples` (default 1) judges the mean of so many passes instead of
            one (:class:`kafnets.attacks.Expectation`). Keys that only say which cell of the grid this is are
            passed over.
        sources (sequence of nn.Module, optional): for attacks that craft examples on other models: these, one
            for each of the activations in `settings["sources"]`.
        batch_size (int, optional): images per forward pass; halved as often as the device's memory asks for.
        precision (str, optional): of the steps: "float32"; "float16" for what None chooses on a GPU alone.
        progress (callable, optional): see :func:`kafnets.attacks.pgd`.
        memory (Memory, optional): where the attack, one of the `RESUMABLE`, goes on after an interruption.

    Returns:
        (dict, dict): the record's figures, and the verdicts {"robust": (N,) uint8, "clean": (N,) uint8}.
        Among the figures: `attacked`, what the attack saw; `gradient_precision`, in which arithmetic its
        gradients were computed ("tf32": float32, convolutions as a GPU rounds them); `random`, whether two
        passes over the same images differ; `zero_gradient_fraction` and `saturated_fraction`
        (:func:`vanishing_gradients`); `warnings`, a sentence for whatever makes the accuracy doubtful.

    Raises:
        UserError: for an unknown method or wrong settings; for a network whose answer for an image depends on
            the images beside it.
        Interrupted: by `memory`, after a signal.
    """
    if images.dtype is not torch.uint8:
        raise ValueError(f"images: expected uint8 pixels, found {images.dtype}")
    if not len(images):
        raise UserError("the test set is empty")
    if precision not in (None, *PRECISIONS):
        known = " or ".join(PRECISIONS)
        raise UserError(f"precision: {precision!r} is not known; write {known}, or nothing")
    method = settings.get("method")
    attack = lookup(ATTACKS, method, "method").load()
    device = device_of(model, images)
    batch_size = default_batch_size(device) if batch_size is None else batch_size
    if memory is not None:
        batch_size = memory.at_most(batch_size)
    pixels = as_pixels(model, images, device)
    labels = labels.to(device)
    arguments = {"seed": settings.get("start_seed", 0), **attack_settings(settings)}
    if len(sources) != len(settings.get("sources", ())):
        raise UserError(f"sources: expected {len(settings.get('sources', ()))} models, found {len(sources)}")
    first = {} if memory is None else {"memory": memory}
    samples = settings.get("eot_samples", 1)
    if samples != 1:
        model = Expectation(model, samples)

    in_half = method in RESUMABLE and pixels.dtype is torch.float32 and precision != "float32"
    in_half &= precision == "float16" or device.type == "cuda"

    def look(batch_size):
        some = sample(pixels)[:batch_size]
        random = check_judgeable(model, some)
        copy, why = (model, "it is random") if random else fast_copy(model, some)
        half = None
        if in_half and not random:
            half, unfit = half_copy(copy, some)
            if unfit:
                line(f"the attack's steps are in float32: {unfit}")
        return random, copy, why, half, [fast_copy(source, some)[0] for source in sources]

    (random, copy, why, half, copies), batch_size = in_memory(look, batch_size)
    if "sources" in settings:
        arguments["sources"] = copies

    def search(batch_size):
        """The attack's result, and where float16 gave it no gradient: None when float16 did not lead it."""
        given = {"progress": progress, "batch_size": batch_size, **arguments}
        if half is None:
            return attack(copy, pixels, labels, **given, **first), None
        result = attack(model, pixels, labels, surrogate=half, **given, **first)
        unfit = _unfit(half, copy, result, batch_size)
        if not unfit:
            return result, result.stalled
        line(f"the attack is made anew with steps in float32: {unfit}")
        return attack(copy, pixels, labels, **given), None

    def judge(batch_size):
        if memory is not None:
            memory.batch_size = batch_size
        result, stalled = search(batch_size)
        queries = result.queries
        with exact_convolutions():
            clean, robust = _answers(model, pixels, result.adversarial, labels, batch_size)
            if method not in NOT_IMPLYING_CLEAN:
                robust &= clean
                disputed = robust & ~result.robust
                if stalled is not None:
                    disputed |= robust & stalled
                if disputed.any():
                    again = attack(
                        model, pixels[disputed], labels[disputed], batch_size=batch_size, **arguments
                    )
                    robust[disputed] = again.robust
                    queries += again.queries
        return result, clean, robust, queries, stalled is not None

    synchronize(device)
    started = time.perf_counter()
    try:
        with seeded(arguments["seed"], device):
            (result, clean, robust, queries, led_by_half), batch_size = in_memory(judge, batch_size)
    except (TypeError, ValueError) as error:
        raise UserError(f"attack {settings.get('attack', method)}: {error}") from error
    synchronize(device)
    seconds = time.perf_counter() - started + (memory.seconds if memory is not None else 0)
    (zero, saturated), _ = in_memory(
        lambda size: vanishing_gradients(model, pixels, labels, size), batch_size
    )
    correct = int(robust.sum())
    figures = {
        "examples": len(images),
        "correct": correct,
        "accuracy": correct / len(images),
        "clean_accuracy": int(clean.sum()) / len(images),
        "queries": queries,
        "gradients": result.gradients,
        "attacked": "a faster copy" if not why else f"the network itself: {why}",
        "gradient_precision": "float16" if led_by_half else _precision_of(pixels),
        "random": random,
        "zero_gradient_fraction": zero,
        "saturated_fraction": saturated,
        "warnings": _warnings(random, samples, zero, len(images)),
        "accuracy_by_iteration": result.accuracy_by_iteration,
        "batch_size": batch_size,
        "wall_seconds": seconds,
    }
    verdicts = {"robust": robust.to("cpu", torch.uint8), "clean": clean.to("cpu", torch.uint8)}
    if result.distances is not None:
        verdicts["distance"] = result.distances.to("cpu", torch.float32).contiguous()
    return figures, verdicts


class Memory:
    """The state of an attack on disk, from which the same evaluation goes on after an interruption.

    Args:
        path (Path): the file; it is the caller's to delete at the end.
        name (str): of all that decides the verdicts (:func:`kafnets.runtime.checkpoint.fingerprint`).
        stop (SignalFlag): asked after every pass; when there was a signal, the state is saved first. After
            the attack it is not asked: what remains is short.

    Raises:
        UserError: when the file cannot be read, or belongs to another evaluation.
    """

    def __init__(self, path, name, stop):
        self.path, self.name, self.stop = path, name, stop
        self.seconds = 0.0  # spent by the processes before this one
        self.started = self.saved = time.monotonic()
        self.batch_size = None  # of the attack that is under way
        self.left = checkpoint.read(path, name)

    def at_most(self, batch_size):
        """The batch size to begin with: the one that an earlier process came down to, or else this one."""
        return batch_size if self.left is None else min(batch_size, self.left["batch_size"])

    def recall(self):
        """The state that an earlier process left, or None: also when its batches were larger ones."""
        left, self.left = self.left, None
        if left is None or left["batch_size"] != self.batch_size:
            return None
        self.seconds = left["seconds"]
        line(f"going on after {duration(self.seconds)} of the attack")
        return left["attack"]

    def note(self, state):
        """Saves what `state()` returns when it is time to.

        Raises:
            Interrupted: when there was a signal.
        """
        now = time.monotonic()
        if self.stop.received or now - self.saved > CHECKPOINT_SECONDS:
            facts = {"fingerprint": self.name, "seconds": self.seconds + now - self.started}
            checkpoint.write(self.path, {**facts, "batch_size": self.batch_size, "attack": state()})
            self.saved = time.monotonic()
        self.stop.check()


def in_memory(compute, batch_size):
    """Computes with half as many images at a time as long as the device's memory does not hold them.

    Args:
        compute (callable): takes a batch size; called from its beginning again after running out of memory,
            so that its result is the one of the smaller batch alone.
        batch_size (int): to begin with.

    Returns:
        (any, int): what `compute` returned, and the batch size it did so with.

    Raises:
        UserError: when not even one image fits.
    """
    while True:
        try:
            return compute(batch_size), batch_size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # out of the handler: its traceback holds the tensors of the failed pass
        if batch_size == 1:
            raise UserError(
                "the device's memory does not hold a single image; run fewer jobs on it at a time"
            )
        torch.cuda.empty_cache()
        batch_size //= 2
        line(f"out of memory: once more with {batch_size} images at a time")


def _answers(model, images, adversarial, labels, batch_size):
    """Whether `model` classifies the images, and the adversarial ones, rightly: (N,) bool each."""
    with frozen(model):
        return tuple(is_correct(predict(model, some, batch_size), labels) for some in (images, adversarial))


def _unfit(half, model, result, batch_size):
    """Why the float16 copy has not led the attack as the network would have; "" when it has."""
    share = result.stalled.double().mean().item()
    if share > STALLED:
        return f"{share:.1%} of the images had no gradient in float16"
    kept = result.adversarial[(result.robust & ~result.stalled).nonzero()[:, 0]]
    return differs(half, model, sample(kept)[:batch_size]) if len(kept) else ""


def _precision_of(pixels):
    """What a network computes in that takes such pixels."""
    if pixels.is_cuda and pixels.dtype is torch.float32:
        return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "float32"
    return str(pixels.dtype).removeprefix("torch.")


def attack_settings(settings):
    """The keyword arguments of the attack in a slice of the configuration, radii as floats."""
    schemas = ATTACKS[settings["method"]].schemas() if settings.get("method") in ATTACKS else {}
    return {
        key: fraction(value) if schemas.get(key) == RADIUS and isinstance(value, str) else value
        for key, value in settings.items()
        if key not in _NOT_FOR_ATTACK
    }


def vanishing_gradients(model, images, labels, batch_size):
    """The shares of images at which the gradient of the cross-entropy is exactly 0, or lost to rounding.

    A gradient attack cannot move an image of the first kind from where it is: a saturating activation can
    look robust without being it (Athalye, Carlini & Wagner 2018, arXiv:1802.00420). The second are those
    whose logits :func:`kafnets.attacks.losses.unsaturated` divides before it takes the gradient.
    """
    zero = saturated = 0
    with frozen(model):
        for pixels, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            pixels = pixels.clone().requires_grad_()
            logits = model(pixels)
            loss = functional.cross_entropy(logits, targets, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, pixels)
            zero += int((gradient.flatten(1) == 0).all(1).sum())
            saturated += int((-margins(logits.detach(), targets) > most_margin(logits.dtype)).sum())
    return zero / len(images), saturated / len(images)


def _warnings(random, samples, zero, count):
    """What makes an accuracy doubtful, in words."""
    found = []
    if random and samples == 1:
        found.append(
            "the network is random (two passes over the same images differ) and each image was judged by one "
            "draw: write eot_samples to judge the mean of several"
        )
    if is_too_many(round(zero * count), count, WITHOUT_GRADIENT):
        found.append(
            f"the cross-entropy has no gradient at {zero:.1%} of the images (saturated outputs?): attacks "
            "along its gradient climbed divided logits there; compare with a margin loss and with attacks "
            "that use no gradient"
        )
    return found


def synchronize(device):
    """Waits for the GPU, so that a clock read here counts its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class AttackProgress:
    """Shows how far an attack has come: a bar on a terminal, else a line to the log now and then.

    Args:
        name (str): what the line begins with.
        memory (Memory, optional): knows the time that was spent before an interruption.
    """

    def __init__(self, name, memory=None):
        self.name, self.memory, self.started = name, memory, time.perf_counter()
        self.written = self.started
        self.bar = bar(None, name)

    def __call__(self, done, left, accuracy):
        turns.give_way()
        now = time.perf_counter()
        gone = now - self.started + (0 if self.memory is None else self.memory.seconds)
        remaining = gone * left / done
        self.bar.total = done + left
        self.bar.set_postfix_str(f"accuracy {accuracy:.2%}", refresh=False)
        self.bar.update(done - self.bar.n)
        if self.bar.disable and (now - self.written > _SECONDS_BETWEEN_LINES or not left):
            self.written = now
            share = done / (done + left)
            line(
                f"{self.name}: {share:4.0%}, accuracy {accuracy:.2%} so far, "
                f"{duration(gone)} gone, at most {duration(remaining)} left"
            )

    def close(self):
        self.bar.close()
