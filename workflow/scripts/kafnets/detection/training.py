"""Training a detector: the frozen network's clean images against adversarial ones made of them."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional

from ..attacks.arguments import as_pixels, check_integer, check_real
from ..attacks.balls import RandomStarts, check_radius, into_ball
from ..attacks.base import default_batch_size, device_of, frozen, seeded
from ..attacks.losses import LOSSES
from ..runtime.errors import UserError
from ..runtime.units import fraction
from .attacks import Point, combination, static_pgd

# Which random numbers a seed is for; each has a stream of its own.
_ORDER, _WEIGHTS, _STARTS, _CRAFTED = 0, 1, 2, 3


@dataclass(frozen=True)
class Recipe:
    r"""How a detector is trained.

    Args:
        eps, step (float): of the PGD that makes the adversarial images, L-infinity, in units of [0, 1].
        iterations (int): of it.
        epochs, batch_size (int): of the training; a batch holds so many images, and their adversarial ones.
        learning_rate, decay (float): of Adam, and its weight decay.
        dynamic (bool): the adversarial images are made anew in every step, against the detector as it is,
            along :math:`(1 - s)\,\mathrm{sign}\,\nabla J_\text{cls} + s\,\mathrm{sign}\,\nabla
            J_\text{det}` with :math:`s \sim U[0, 1]` for each image; else once, against the network alone.
        seed (int): of the start, the order and the crafting.

    Source: Metzen et al. 2017, arXiv:1702.04267.
    """

    eps: float
    step: float
    iterations: int = 10
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    decay: float = 0.0
    dynamic: bool = False
    seed: int = 0

    def __post_init__(self):
        check_radius(self.eps, "linf")
        for name, least in (("iterations", 1), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
            check_integer(name, getattr(self, name), least)
        for name in ("step", "learning_rate", "decay"):
            check_real(name, getattr(self, name), 0)


def recipe_of(settings, seed):
    """What a section of the configuration says of a detector.

    Args:
        settings (dict): one of `detection.detectors`; radii as "n/255".
        seed (int): of its training.

    Returns:
        (dict, Recipe): the detector's own settings, and how it is trained: None for one that is not.

    Raises:
        UserError: for settings that are out of range.
    """
    names = {one.name for one in fields(Recipe)}
    recipe = {name: value for name, value in settings.items() if name in names}
    own = {name: value for name, value in settings.items() if name not in names and name != "method"}
    for name in ("eps", "step"):
        if name in recipe:
            recipe[name] = fraction(recipe[name])
    try:
        return own, Recipe(**recipe, seed=seed) if recipe else None
    except (TypeError, ValueError) as error:
        raise UserError(f"detector {settings['method']}: {error}") from error


def train(detector, images, labels, recipe, *, batch_size=None, state=None, save=None, note=print):
    """Trains a detector in place; of the network nothing changes.

    Interrupted after an epoch and gone on with from the state of that epoch, it ends as if it had not been
    interrupted, on the CPU to the bit.

    Args:
        detector (Detector): freshly made.
        images (Tensor): (N, C, H, W) uint8, training images.
        labels (Tensor): (N,) int64 true classes.
        recipe (Recipe): how.
        batch_size (int, optional): images per forward pass of what is computed once.
        state (dict, optional): what an earlier call gave to `save`.
        save (callable, optional): called after every epoch with a function that returns the state.
        note (callable): told a line after every epoch.

    Returns:
        list of dicts: of each epoch the mean `loss`, and the `accuracy` on clean and adversarial images.

    Raises:
        UserError: when there is no image, or the loss is no longer finite.
    """
    if not len(images):
        raise UserError("the training set is empty")
    device = device_of(detector.network, images)
    size = default_batch_size(device) if batch_size is None else batch_size
    pixels, classes = as_pixels(detector.network, images, device), labels.to(device)
    with seeded(recipe.seed, device):
        return _Training(detector, pixels, classes, recipe, size).run(state, save, note)


class _Training:
    def __init__(self, detector, pixels, classes, recipe, size):
        self.detector, self.pixels, self.classes = detector, pixels, classes
        self.recipe, self.size = recipe, size
        self.optimiser = torch.optim.Adam(
            detector.own_parameters(), recipe.learning_rate, weight_decay=recipe.decay
        )
        self.history = []

    def run(self, state, save, note):
        clean, crafted = self._crafted()
        if state is None:
            self.detector.fit_scale(torch.cat([clean, crafted]))
        else:
            self.detector.load_head(state["head"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.history = list(state["history"])
        for epoch in range(len(self.history), self.recipe.epochs):
            self.history.append(self._epoch(epoch, clean, crafted))
            found = self.history[-1]
            note(
                f"epoch {epoch + 1} of {self.recipe.epochs}: loss {found['loss']:.4f}, "
                f"accuracy {found['accuracy']:.1%}"
            )
            if save is not None:
                save(self._state)
        self.detector.eval()
        return self.history

    def _state(self):
        return {
            "head": {name: one.detach().cpu().clone() for name, one in self.detector.head().items()},
            "optimiser": self.optimiser.state_dict(),
            "epoch": len(self.history),
            "history": self.history,
        }

    def _crafted(self):
        """The features of the clean images and of adversarial ones, which the network is asked for once."""
        recipe = self.recipe
        ball = {"eps": recipe.eps, "step": recipe.step, "iterations": recipe.iterations}
        # not the attacks' seed: they would start from the very noise that the detector has learned by heart
        seed = int(np.random.SeedSequence([recipe.seed, _CRAFTED]).generate_state(1)[0])
        result = static_pgd(
            self.detector.network, self.pixels, self.classes, batch_size=self.size, seed=seed, **ball
        )
        return self._features(self.pixels), self._features(result.adversarial)

    @torch.no_grad()
    def _features(self, images):
        return torch.cat([self.detector.features(some)[1] for some in images.split(self.size)])

    def _epoch(self, epoch, clean, crafted):
        order = np.random.default_rng([self.recipe.seed, _ORDER, epoch]).permutation(len(self.pixels))
        batches = torch.from_numpy(order).to(self.pixels.device).split(self.recipe.batch_size)
        loss_sum = right = 0.0
        for number, rows in enumerate(batches):
            adversarial = self._dynamic(epoch, number, rows) if self.recipe.dynamic else crafted[rows]
            loss, correct = self._step(torch.cat([clean[rows], adversarial]), len(rows))
            loss_sum, right = loss_sum + loss * len(rows), right + correct
        loss = loss_sum / len(self.pixels)
        if not np.isfinite(loss):
            raise UserError(
                f"the detector's loss is {loss} in epoch {epoch + 1}; write a smaller learning_rate"
            )
        return {"epoch": epoch + 1, "loss": loss, "accuracy": right / (2 * len(self.pixels))}

    def _step(self, features, clean):
        self.detector.train()
        scores = self.detector.score_of(features)
        targets = (torch.arange(len(scores), device=scores.device) >= clean).to(scores.dtype)
        loss = functional.binary_cross_entropy_with_logits(scores, targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.item(), int(((scores > 0) == (targets > 0)).sum())

    def _dynamic(self, epoch, number, rows):
        """The features of images made against the detector as it is."""
        recipe, images, labels = self.recipe, self.pixels[rows], self.classes[rows]
        seed = [recipe.seed, _WEIGHTS, epoch, number]
        weights = torch.from_numpy(np.random.default_rng(seed).random(len(rows))).to(images)
        start = np.random.SeedSequence([recipe.seed, _STARTS, epoch, number]).generate_state(1)[0]
        points = RandomStarts(images, recipe.eps, int(start))[0]
        with frozen(self.detector):
            for _ in range(recipe.iterations):
                point = Point(self.detector, points, labels, LOSSES["cross_entropy"])
                direction = combination(*point.gradients(), weights, "linf")
                points = into_ball(points + recipe.step * direction, images, recipe.eps, "linf")
        return self._features(points)
