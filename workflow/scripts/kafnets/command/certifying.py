"""Certifies a network at every image: within which radius can its answer not change?

    kafnets certify --model my_module:build --weights mine.pt --data cifar10 --output results/mine \\
        --settings '{"method": "smoothing", "sigma": 0.25, "samples": 1000}'

Writes a record and a CSV file with a row an image. Killed and called again, it goes on where it was.
"""

from pathlib import Path

from ..registry import CERTIFICATES
from ..runtime import cli
from . import networks


def options(parser):
    networks.network_options(parser)
    networks.data_options(parser)
    parser.add_argument(
        "--settings",
        required=True,
        help="the certificate, as in config.yaml: a JSON object, or a JSON or YAML file, with method, one of "
        f"{', '.join(CERTIFICATES)}, and its settings",
    )
    parser.add_argument(
        "--examples", type=cli.positive, help="so many test images, balanced by class (default: all)"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="folder of the record and the images' rows"
    )
    parser.add_argument("--batch-size", type=cli.positive, help="images per forward pass")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=cli.positive, default=1, help="CPU threads")


def run(arguments):
    import torch

    from ..certification.entry import with_arguments
    from ..recording.certifications import certify_once
    from ..runtime.device import resolve
    from . import repeating

    torch.set_num_threads(arguments.threads)
    given = with_arguments(cli.settings_argument(arguments.settings))
    method = given["method"]
    description = networks.described(arguments)
    dataset = networks.load_data(arguments.data, arguments.source, arguments.examples)
    settings = {
        "certificate": method,
        "dataset": dataset.name,
        "examples": arguments.examples,
        "method": method,
        "arguments": given["arguments"],
    }

    def facts():
        return {
            "settings": settings,
            "data": arguments.data,
            "data_sha256": dataset.sha256,
            "code": "",
            "library": repeating.code_checksum(),
            **networks.network_facts(description),
        }

    record, images = (arguments.output / f"{method}.{end}" for end in ("json", "csv"))
    if repeating.is_made(record, facts(), {"csv_sha256": images}):
        return 0
    return certify_once(
        lambda device: networks.load_network(description, dataset, device),
        dataset,
        settings,
        facts,
        record,
        images,
        lambda: resolve(arguments.device),
        title=arguments.model,
        batch_size=arguments.batch_size,
    )
