"""Pictures of test images: galleries of attacks, saliency maps, loss landscapes."""

import numpy
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from ...registry import label
from ...runtime.errors import UserError
from ...runtime.units import fraction
from . import panels, style

CUT = 3.0  # standard deviations at which a saliency map is cut off, as Tsipras et al. 2019 do
WRONG = "#b2182b"


def gallery(card, tensors):
    """A column an image: as it is, as the attack left it, and the difference, whose whole range is ±eps.

    Above the first two stand the network's answer and its confidence, red where it is wrong; the true class
    where that is not what the network said at first.

    Args:
        card: of one network.
        tensors: its tensors (`report.cards.tensors`).
    """
    images, attacked = tensors["gallery_images"], tensors["gallery_attacked"]
    truth, eps = tensors["gallery_labels"], card.settings["card"]["eps"]
    drawn, axes = style.figure(0.7 + 1.25 * len(images), 4.85, 3, len(images))
    for column, true in enumerate(truth):
        shown = images[column], attacked[column], difference(images[column], attacked[column], fraction(eps))
        for row, pixels in enumerate(shown):
            _picture(axes[row, column], pixels)
        for row, name in enumerate(("clean", "attacked")):
            answer = tensors[f"gallery_{name}_answer"][column]
            confidence = tensors[f"gallery_{name}_confidence"][column]
            words = f"{card.classes[answer]}: {100 * confidence:.0f} %"
            if row == 0 and answer != true:
                words += f"\n(is: {card.classes[true]})"
            colour = "black" if answer == true else WRONG
            axes[row, column].set_title(words, color=colour, pad=3, fontsize=7)
    for row, name in enumerate(("Image", "Attacked", "Difference")):
        axes[row, 0].set_ylabel(name)
    drawn.supxlabel(
        f"answer: confidence, red: wrong\ndifference: grey 0,\nblack and white ∓ε, ε = {eps}", fontsize=6
    )
    return drawn


def difference(image, attacked, eps):
    """What an attack added, in [0, 1]: 0.5 where it is nothing, 0 and 1 where it is -eps and eps."""
    return (0.5 + (attacked - image) / (2 * eps)).clip(0, 1)


def saliency(cards, tensors):
    """A row an image: the image, and the gradient of the loss there for one network after the other.

    Networks that were trained without an adversary come first. Each gradient is centred on its mean, cut off
    at `CUT` standard deviations and stretched to [0, 1]. Beneath it stands the alignment of image and
    gradient, in the head its mean over the card's images.

    Args:
        cards: of networks judged on the same images.
        tensors: those of each.

    Raises:
        UserError: when the images are not the same.
    """
    order = sorted(range(len(cards)), key=lambda i: cards[i].training != "none")
    images = tensors[order[0]]["first_images"]
    for i in order:
        if not numpy.array_equal(tensors[i]["first_images"], images):
            raise UserError(f"{cards[i].path}: judged on other images than {cards[order[0]].path}")
    drawn, axes = _grid(len(images), 1 + len(cards), 0.2, 0.8 + 0.07 * len(images))
    axes[0, 0].set_title("Image", fontsize=7)
    for row, image in enumerate(images):
        _picture(axes[row, 0], image)
        for column, i in enumerate(order, 1):
            _picture(axes[row, column], _stretched(tensors[i]["first_gradients"][row]))
            axes[row, column].set_xlabel(
                f"α {tensors[i]['first_alignments'][row]:.2f}", fontsize=6, labelpad=1
            )
    for column, i in enumerate(order, 1):
        kind = "clean-trained" if cards[i].training == "none" else "robust"
        mean = cards[i].figures["alignment"]
        head = f"{label(cards[i].activation)}\n{kind}\nmean α {mean:.2f}"
        axes[0, column].set_title(head, fontsize=6.5, pad=3)
    words = (
        "α: how well image and gradient align, |⟨image, gradient⟩| / ‖gradient‖ (of the largest logit)\n"
        f"mean α: over {cards[order[0]].figures['examples']:,} images"
    )
    drawn.supxlabel(words if len(cards) > 2 else words.replace("align, ", "align,\n"), fontsize=6.5)
    return drawn


def landscapes(cards, tensors):
    """A row an image, a column a network: the loss around the image, all on one scale of colours.

    Across: along the signs of the gradient, from -eps to eps; up: along random signs.

    Args:
        cards: one a network.
        tensors: those of each.
    """
    surfaces = [of_one["landscapes"] for of_one in tensors]
    # one image that a network is sure of wrongly would leave no colour for the others
    most = max(float(numpy.quantile(numpy.concatenate(surfaces), 0.95)), 1e-6)
    shades = PowerNorm(0.5, 0, most)  # small losses keep a shade of their own
    drawn, axes = _grid(len(surfaces[0]), len(cards), 0.95, 0.5)
    for column, (card, surface) in enumerate(zip(cards, surfaces, strict=True)):
        axes[0, column].set_title(label(card.activation), fontsize=7)
        for row, losses in enumerate(surface):
            panel = axes[row, column]
            place = {"origin": "lower", "extent": (-1, 1, -1, 1), "interpolation": "bilinear"}
            shown = panel.imshow(losses, norm=shades, cmap="cividis", **place)
            ticks = numpy.linspace(-1, 1, len(losses))
            levels = MaxNLocator(7).tick_values(losses.min(), losses.max())[1:-1]
            on = [panels.ink(shown.to_rgba(level)[:3]) for level in levels]  # the colour that a line lies on
            if len(levels):
                panel.contour(ticks, ticks, losses, levels, colors=on, linewidths=0.4)
            here = panels.ink(shown.to_rgba(losses[len(losses) // 2, len(losses) // 2])[:3])
            panel.plot(0, 0, marker="+", color=here, markersize=4, markeredgewidth=0.7)
            _bare(panel)
    eps = cards[0].settings["card"]["eps"]
    drawn.supxlabel(f"along the gradient's signs, ±{eps}", fontsize=7)
    drawn.supylabel(f"along random signs, ±{eps}", fontsize=7)
    drawn.colorbar(shown, ax=axes, label="Cross-entropy", pad=0.15 / len(cards), extend="max")
    return drawn


def _grid(rows, columns, aside, above):
    """Small square panels that fill a page's width, or as much of it as few of them need.

    `aside` and `above` are inches for what stands beside and above them.
    """
    side = min(1.15, (style.PAGE - aside) / columns)
    return style.figure(side * columns + aside, side * rows + above, rows, columns)


def _picture(axes, pixels):
    axes.imshow(numpy.moveaxis(pixels, 0, -1), interpolation="nearest")
    _bare(axes)


def _bare(axes):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _stretched(gradient):
    """A gradient as an image in [0, 1]; grey where there is none."""
    centred = numpy.nan_to_num(gradient) - numpy.nan_to_num(gradient).mean()
    size = CUT * centred.std()
    return (0.5 + centred / (2 * size)).clip(0, 1) if size > 0 else numpy.full_like(centred, 0.5)
