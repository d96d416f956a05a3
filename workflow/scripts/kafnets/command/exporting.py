"""Writes a network for programs without this library, proved to compute the same.

    kafnets export --model published/kaf_elu --output kaf_elu.onnx

NAME.onnx is ONNX (which needs the packages onnx and onnxscript), NAME.pt2 a program of torch.export.
"""

from pathlib import Path

from . import networks


def options(parser):
    networks.network_options(parser)
    parser.add_argument(
        "--image-shape",
        nargs=3,
        type=int,
        default=(3, 32, 32),
        metavar=("CHANNELS", "ROWS", "COLUMNS"),
        help="of its images (default: 3 32 32)",
    )
    parser.add_argument("--output", required=True, type=Path, help="written: NAME.onnx or NAME.pt2")


def run(arguments):
    from ..models.exporting import export

    description = networks.described(arguments)
    model = networks.network_for(description, tuple(arguments.image_shape), None, "cpu")
    export(model, arguments.output, arguments.image_shape)
    print(arguments.output)
