"""Triton kernels compiled for a GPU that is not here, for the arguments of the library's launches."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}
_OPTIONS = {"num_warps", "num_stages", "maxnreg"}


class Launch(NamedTuple):
    function: object
    grid: tuple
    arguments: dict
    options: dict


def record(module, names, monkeypatch):
    """A list to which launches of a module's kernels are written from now on, instead of being made."""
    launches = []

    class Recorder:
        def __init__(self, function):
            self.function = function

        def __getitem__(self, grid):
            def launch(*positional, **named):
                arguments = dict(zip(self.function.arg_names, positional, strict=False)) | named
                options = {name: arguments.pop(name) for name in _OPTIONS & arguments.keys()}
                assert arguments.keys() == set(self.function.arg_names)
                launches.append(Launch(self.function, grid, arguments, options))

            return launch

    for name in names:
        monkeypatch.setattr(module, name, Recorder(getattr(module, name)))
    return launches


class Compiled(NamedTuple):
    registers: int
    spilled: int  # bytes of a thread
    shared: int  # bytes of a program
    ptx: str
    cubin: bytes


def compile_for(launch, capability=90):
    """The kernel of a launch as it would be compiled for a GPU of this compute capability."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(launch.function.arg_names):
        value = launch.arguments[name]
        fixed = launch.function.params[i].is_constexpr
        signature[name] = _type(value, (i,), fixed, constants, attributes)
    source = ASTSource(launch.function, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    compiled = compile(source, target=target, options=launch.options)
    ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
    return Compiled(*_resources(cubin), compiled.metadata.shared, ptx, cubin)


def _type(value, path, fixed, constants, attributes):
    """The type of an argument as Triton names it; notes constants, and what is divisible by 16."""
    if isinstance(value, tuple) and not fixed:
        return tuple(_type(v, (*path, i), False, constants, attributes) for i, v in enumerate(value))
    if fixed or value is None or (isinstance(value, int) and value == 1):
        constants[path] = value
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, int):
        if value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32"
    attributes[path] = [["tt.divisibility", 16]]
    return _TYPES[value.dtype]


def _resources(cubin):
    """Registers and spilled bytes of a thread, read off the compiled code."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL")}
    return found["REG"], found["STACK"] + found["LOCAL"]
