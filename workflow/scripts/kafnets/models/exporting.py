"""Networks for programs without this library: ONNX, and programs of torch.export."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from ..runtime.errors import UserError
from ..runtime.files import atomic_path

# Of the range of each image's logits; the same operations in another order differ by a few 1e-7.
TOLERANCE = 1e-4
_NEEDED = ("onnx", "onnxscript")


def export(model: torch.nn.Module, path: str | os.PathLike, image_shape: Sequence[int] = (3, 32, 32)) -> None:
    r"""Writes a network as ONNX or as a program of torch.export, for any number of images at a time.

    A KAF is its formula in plain operations there, with D times its input in memory. What is written was
    compared with the network on random images; of ONNX that is the program that is translated, and where
    onnxruntime is installed the file itself.

    Args:
        model (nn.Module): any network; it is not changed, and exported in evaluation mode.
        path (str or Path): NAME.onnx, or NAME.pt2 for a program that ``torch.export.load`` reads.
        image_shape (sequence of 3 ints): channels, rows and columns of its images. Default: (3, 32, 32)

    Shape:
        - Input of what is written: :math:`(N, *\text{image\_shape})`, pixels in [0, 1]
        - Output: :math:`(N, \text{classes})` logits

    Raises:
        UserError: for another ending of the name, a missing package, a network that cannot be exported, or
            one whose exported form computes something else.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".pt2"):
        raise UserError(f"path: {path} says no format; let it end with .onnx or .pt2")
    if path.suffix == ".onnx":
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"ONNX needs the packages {' and '.join(missing)}; pip install {' '.join(_NEEDED)}"
            )
    parameter = next((one for one in model.parameters() if one.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, *image_shape, generator=generator).to(parameter)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            logits = model.eval()(images)
            program = _program(model, images)
            _check_same(path, program.module()(images), logits)
        (_write_onnx if path.suffix == ".onnx" else _write_program)(program, path, images, logits)
    finally:
        for module, training in modes:
            module.training = training


def _program(model, images):
    batch = torch.export.Dim("batch")
    try:
        return torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},))
    except Exception as error:  # of a foreign network's own code, in the exporter's many words
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"model: torch.export cannot write it down ({line})") from None


def _check_same(path, found, logits):
    span = (logits.amax(1) - logits.amin(1)).clamp(min=torch.finfo(torch.float32).tiny)
    difference = ((found - logits).abs().amax(1) / span).max().item()
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: not written: exported, the network's logits differ by {difference:.1e} of their range"
        )


def _write_program(program, path, images, logits):
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary)


def _write_onnx(program, path, images, logits):
    with _quiet(), atomic_path(path) as temporary:
        written = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=["logits"])
        written.save(temporary, external_data=False)
        if importlib.util.find_spec("onnxruntime") is not None:
            # where it happens to be: no part of what is declared
            session = importlib.import_module("onnxruntime").InferenceSession(
                temporary, providers=["CPUExecutionProvider"]
            )
            (found,) = session.run(None, {"images": images.cpu().numpy()})
            _check_same(path, torch.from_numpy(found), logits.cpu())


@contextlib.contextmanager
def _quiet():
    """Without the exporter's own report of its steps."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
