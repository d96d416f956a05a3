"""Forward and backward of KAF on the shapes of ResNet20, beside torch's SiLU and the plain formula.

    python -m benchmarks.kaf [--device cpu|cuda] [--batch 128] [--repeats 9] [--seconds 60] [--output FILE]

Every contender runs in each round, so that whatever else the machine does meets all of them; a ratio is the
median over rounds of a contender's time over SiLU's in the same round. A contender's time in a round is the
median of five calls after one that is not counted. The plain formula, a hundred times as long, is called once
a round, and after the others' rounds: it throws their data out of the caches and their memory back to the
system, for which they would pay. A busy machine lengthens the longer runs more: the ratio of the fastest
rounds stands beside it. On a GPU these times are the host's, who launches kernel by kernel; the device's
own are those of the CUDA graph. `saved` is what autograd keeps between forward and backward, in sizes of the
input.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
from kafnets import KAF
from kafnets.activations.kaf.functional import active_backend, kaf_plain
from kafnets.activations.kaf.with_base import KAFWithBase
from kafnets.runtime.graphs import WARM_UP, capture, computing_on
from kafnets.runtime.records import environment
from torch.autograd.graph import saved_tensors_hooks

from .measuring import Figures

SHAPES = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
FORMATS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}  # trainings' own first
DTYPES = {"cpu": ["float32"], "cuda": ["bfloat16", "float32"]}
FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}


def contenders(channels, device, compiled):
    """name -> (function of x, parameters whose gradients are taken)."""
    layer = KAF(channels, device=device)
    frozen = KAF(channels, device=device).requires_grad_(False)
    free = KAF(channels, device=device, **FREE)
    with_base = {base: KAFWithBase(channels, base, std=0.3, device=device) for base in ("elu", "silu")}

    def plain(x):
        return kaf_plain(x, layer.alpha, layer.dictionary, layer.bandwidth)

    def plain_free(x):
        return kaf_plain(x, free.alpha, free.dictionary, free.bandwidth)

    runs = {
        "silu": (torch.nn.SiLU(), []),
        "kaf": (layer, [layer.alpha]),
        "kaf, input gradient only": (frozen, []),
        "kaf_free": (free, list(free.parameters())),
        **{f"kaf with base {base}": (f, [f.weight, f.alpha]) for base, f in with_base.items()},
        "plain": (plain, [layer.alpha]),
        "plain, compiled": (torch.compile(plain), [layer.alpha]),
        "plain kaf_free": (plain_free, list(free.parameters())),
    }
    return {name: run for name, run in runs.items() if compiled or name != "plain, compiled"}


def seconds(function, parameters, x, grad):
    """(forward, backward) of one call in seconds."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    y = function(x)
    wait()
    middle = time.perf_counter()
    torch.autograd.grad(y, [x, *parameters], grad)
    wait()
    return middle - start, time.perf_counter() - middle


def steady_seconds(function, parameters, x, grad, calls=5):
    """The call whose total is the median of `calls`, after one that is not counted."""
    seconds(function, parameters, x, grad)
    return sorted((seconds(function, parameters, x, grad) for _ in range(calls)), key=sum)[calls // 2]


def graph_seconds(function, parameters, x, grad, calls=20):
    """Seconds of forward and backward together on a GPU, without what the host adds: from a CUDA graph.

    Autograd hands a leaf its gradient on the stream that the leaf was first used on. A capture on another
    stream would wait for that one, which is an error; so leaves, warm-up and capture have one stream, that of
    `computing_on`.
    """

    def step():
        torch.autograd.grad(function(x), [x, *parameters], grad)

    for _ in range(WARM_UP):
        step()
    with capture(x.device, torch.cuda.current_stream(x.device)) as graph:
        for _ in range(calls):
            step()
    graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def saved_inputs(function, x):
    """Bytes that autograd keeps for the backward, over those of the input."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x)
    return sum(storages.values()) / (x.numel() * x.element_size())


def peak_inputs(function, parameters, x, grad):
    """Most bytes held at once during forward and backward on a GPU, beyond those before, over the input's."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(function(x), [x, *parameters], grad)
    return (torch.cuda.max_memory_allocated() - before) / (x.numel() * x.element_size())


def measure(shape, batch, layout, dtype, device, repeats, compiled):
    """One row per contender, for one shape, layout and dtype; within :func:`computing_on`."""
    torch.manual_seed(0)
    x, grad = (
        torch.randn(batch, *shape, device=device)
        .to(getattr(torch, dtype))
        .contiguous(memory_format=FORMATS[layout])
        for _ in range(2)
    )
    x.requires_grad_()
    runs = contenders(shape[0], device, compiled)
    slow = {name: run for name, run in runs.items() if name.startswith("plain")}
    fast = {name: run for name, run in runs.items() if name not in slow}
    rounds = [{name: steady_seconds(*run, x, grad) for name, run in fast.items()} for _ in range(repeats)]
    for run in slow.values():  # compilers
        seconds(*run, x, grad)
    for one in rounds:
        one |= {name: seconds(*run, x, grad) for name, run in slow.items()}
    rows = []
    for name, (function, parameters) in runs.items():
        times = [sum(one[name]) for one in rounds]
        row = {
            **{"contender": name, "batch": batch, "shape": list(shape), "layout": layout, "dtype": dtype},
            "forward_ms": 1e3 * statistics.median(one[name][0] for one in rounds),
            "backward_ms": 1e3 * statistics.median(one[name][1] for one in rounds),
            "total_ms": 1e3 * statistics.median(times),
            "fastest_ms": 1e3 * min(times),
            "over_silu": statistics.median(sum(one[name]) / sum(one["silu"]) for one in rounds),
            "saved_inputs": saved_inputs(function, x),
        }
        if device == "cuda":
            row["peak_inputs"] = peak_inputs(function, parameters, x, grad)
            row["graph_ms"] = 1e3 * statistics.median(
                graph_seconds(function, parameters, x, grad) for _ in range(3)
            )
        rows.append(row)
    for row in rows:
        row["fastest_over_silu"] = row["fastest_ms"] / rows[0]["fastest_ms"]
    if device == "cuda":
        for row in rows:
            row["graph_over_silu"] = row["graph_ms"] / rows[0]["graph_ms"]
    return rows


def print_rows(rows):
    first = rows[0]
    size = "x".join(map(str, [first["batch"], *first["shape"]]))
    print(f"\n{size} {first['layout']} {first['dtype']}")
    print(
        f"{'':26}{'forward':>10}{'backward':>10}{'total ms':>10}{'/ SiLU':>8}{'fastest':>9}{'saved':>8}",
        end="",
    )
    print(f"{'graph ms':>10}{'/ SiLU':>8}" if "graph_ms" in first else "")
    for row in rows:
        print(f"{row['contender']:26}{row['forward_ms']:10.2f}{row['backward_ms']:10.2f}", end="")
        print(f"{row['total_ms']:10.2f}{row['over_silu']:8.2f}", end="")
        print(f"{row['fastest_over_silu']:9.2f}{row['saved_inputs']:8.2f}", end="")
        print(
            f"{row['graph_ms']:10.4f}{row['graph_over_silu']:8.2f}" if "graph_ms" in row else "", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=device)
    parser.add_argument("--batch", type=int, nargs="+", help="default: 128, on a GPU 1024 too")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--layouts", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--dtypes", nargs="+", help="default: float32, on a GPU bfloat16 too")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the formula too: minutes")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/kaf.json"))
    parser.add_argument("--seconds", type=float, help="no shape is begun later than this after the start")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    batches = args.batch or ([128, 1024] if args.device == "cuda" else [128])
    backend = active_backend(args.device)
    if args.device == "cuda" and backend != "triton":
        sys.exit(f"the KAF would run in {backend} code on this GPU, not in Triton's: see the message above")
    print(
        f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}, {args.repeats} rounds, {backend}"
    )
    if args.device == "cuda":
        print("only the last two columns are the GPU's own times; the others are the host's, who launches")
    device = torch.device(args.device)
    facts = {"environment": {**environment(device), "kaf_backend": backend}, "repeats": args.repeats}
    figures = Figures(args.output, "kaf", facts, ["rows"], args.seconds)
    cases = itertools.product(args.dtypes or DTYPES[args.device], args.layouts, batches, SHAPES)
    for dtype, layout, batch, shape in cases:
        if figures.allows(f"{batch}x{'x'.join(map(str, shape))} {layout} {dtype}"):
            torch.compiler.reset()
            with computing_on(device):
                rows = measure(shape, batch, layout, dtype, args.device, args.repeats, args.compile)
            print_rows(rows)
            for row in rows:
                figures.add("rows", row)
    figures.finish()


if __name__ == "__main__":
    main()
