"""Every backend of KAF against the formula in float64: values, gradients, layouts, extremes, repetition."""

import math
import os
import subprocess
import sys

import pytest
import torch
from kafnets import KAF
from kafnets.activations.kaf import cpu, functional, gpu
from kafnets.data import prepare_digits, save
from kafnets.models import create_model, save_model
from kafnets.runtime import compiled

from tests import interpreter
from tests.scripts import SCRIPTS, evaluation_arguments, training_arguments

FREE = {"trainable_dictionary": True, "trainable_bandwidth": True}
BACKENDS = ["triton"] if interpreter.INTERPRETED else ["portable", "cpu"]
LAYERS = {
    "thesis": {"std": 1.0},
    "elu": {"init": "elu"},
    "reference": {"bandwidth": "reference", "boundary": 4.0, "std": 0.8},
    "few points": {"D": 3},
    "many points": {"D": 50},
    "wide": {"D": 100, "boundary": 10.0},
    "narrow kernels": {"bandwidth": 60.0},
    "free": FREE,
}

needs_compiler = pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(channels, **arguments):
    layer = KAF(channels, **arguments)
    if isinstance(layer.dictionary, torch.nn.Parameter):
        with torch.no_grad():
            layer.dictionary += 0.1 * torch.randn_like(layer.dictionary)
            layer.bandwidth *= 1 + 0.2 * torch.rand_like(layer.bandwidth)
    return layer


def value_and_gradients(layer, x, g, backend, dtype=None):
    """y and the gradients of x and of all parameters, by `backend`, in `dtype` if given."""
    names = ("alpha", "dictionary", "bandwidth")
    tensors = [x, *(getattr(layer, name) for name in names)]
    wanted = [True, *(isinstance(t, torch.nn.Parameter) for t in tensors[1:])]
    tensors = [
        t.detach().to(dtype or t.dtype).requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)
    ]
    y = functional.kaf(*tensors, layer.kernel, backend)
    return y, *torch.autograd.grad(y, [t for t in tensors if t.requires_grad], g.to(y.dtype))


def check(layer, x, backend):
    """Compares with the plain formula in float64; errors are in units of what the sums run over."""
    g = torch.randn(x.shape).to(x)
    y, grad_x, *grads = value_and_gradients(layer, x, g, backend)
    y64, grad_x64, *grads64 = value_and_gradients(layer, x, g, "plain", torch.float64)
    assert (y.dtype, y.stride(), y.shape) == (x.dtype, torch.empty_like(x).stride(), x.shape)
    assert (grad_x.dtype, grad_x.stride()) == (x.dtype, torch.empty_like(x).stride())
    if not x.numel():
        assert all((grad == 0).all() for grad in grads)
        return
    scale = layer.alpha.detach().abs().sum(1).max()
    steep = scale * (2 * layer.bandwidth.detach().max()).sqrt()
    half = torch.finfo(x.dtype).eps if x.dtype != torch.float32 else 0.0
    torch.testing.assert_close(y.double(), y64, rtol=half, atol=1e-6 * scale)
    # In half precision the incoming gradient was rounded too, before the sums.
    torch.testing.assert_close(grad_x.double(), grad_x64, rtol=2 * half, atol=2e-6 * steep * g.abs().max())
    for grad, expected in zip(grads, grads64, strict=True):
        assert (grad.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, backend):
    layer = make(5, **LAYERS[name])
    x = 3 * torch.randn(7, 5, 11, 9)
    check(layer, x, backend)
    check(layer, x.contiguous(memory_format=torch.channels_last), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arguments", [{}, FREE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape",
    [
        *[(1, 1), (37, 5), (64, 40), (3, 1, 7), (2, 17, 33), (5, 3, 1, 1), (70, 33, 8, 8), (2, 3, 2, 3, 5)],
        *[(0, 3, 4, 4), (2, 3, 0), (1, 2, 40, 40)],
    ],
)
def test_shapes_layouts_and_dtypes(shape, dtype, arguments, backend):
    layer = make(shape[1], **arguments)
    x = (2 * torch.randn(shape)).to(dtype)
    check(layer, x, backend)
    if len(shape) in (4, 5):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        check(layer, x.contiguous(memory_format=formats[len(shape)]), backend)
    if x.numel():
        check(layer, x.transpose(0, -1).contiguous().transpose(0, -1), backend)
        check(layer, x.repeat_interleave(2, 0)[::2], backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arguments", [{}, FREE])
def test_extremes(arguments, backend):
    layer = make(2, **arguments)
    values = [1e4, -1e4, 3e38, -3e38, math.inf, -math.inf, 7.0, -7.0, 6.26, 0.0, -0.0, 1e-40]
    x = torch.tensor(values)[:, None].repeat(1, 2)
    y, grad_x, *grads = value_and_gradients(layer, x, torch.ones_like(x), backend)
    assert (y[:6] == 0).all() and (grad_x[:6] == 0).all()
    assert all(grad.isfinite().all() for grad in grads)
    check(layer, x[6:], backend)
    # Far from the dictionary little is left, but it is not nothing: an attack may still follow it.
    _, tail64, *_ = value_and_gradients(layer, x[6:8], torch.ones(2, 2), "plain", torch.float64)
    torch.testing.assert_close(grad_x[6:8].double(), tail64, rtol=1e-3, atol=0)


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 32, 8, 12), (2, 16, 4, 4), (2, 32, 3, 5), (2, 24, 4, 8)])
@pytest.mark.skipif(interpreter.INTERPRETED, reason="the compiled library's own")
def test_channels_last_on_the_cpu_has_the_same_bits(shape):
    """Sixteen channels at a time, or through tiles: each point gets the same, far points and NaN too."""
    layer = make(shape[1])
    x, g = 4 * torch.randn(shape), torch.randn(shape)
    x.flatten()[::37] *= 100
    x.flatten()[::101] = math.nan
    inputs = (layer.alpha.detach(), layer.dictionary, layer.bandwidth)
    needs = (True, False, False, False)
    y, grad = cpu.forward(x, *inputs, "gaussian"), cpu.backward(g, x, *inputs, "gaussian", needs)[0]
    x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    again = cpu.forward(x, *inputs, "gaussian"), cpu.backward(g, x, *inputs, "gaussian", needs)[0]
    for first, second in zip((y, grad), again, strict=True):
        assert torch.equal(first.nan_to_num(9), second.nan_to_num(9))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arguments", [{}, FREE])
def test_nan_goes_through(arguments, backend):
    layer = make(2, **arguments)
    x = torch.randn(40, 2)
    x[3, 0] = math.nan
    y, grad_x, *grads = value_and_gradients(layer, x, torch.ones_like(x), backend)
    assert y[3, 0].isnan() and grad_x[3, 0].isnan() and y.isnan().sum() == grad_x.isnan().sum() == 1
    for grad in grads:
        assert grad[0].isnan().any() and not grad[1].isnan().any()
    g = torch.ones_like(x)
    g[5, 1] = math.nan
    _, _, grad_alpha, *_ = value_and_gradients(layer, x, g, backend)
    assert grad_alpha[1].isnan().any()


@pytest.mark.parametrize("kernel", ["relu", "softplus"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_kernels_and_float64(kernel, backend):
    layer = KAF(3, kernel=kernel, trainable_dictionary=True)
    x = torch.randn(5, 3, 4)
    check(layer, x, backend)
    layer = KAF(3, dtype=torch.float64)
    y, *_ = value_and_gradients(layer, x.double(), x.double(), backend)
    torch.testing.assert_close(
        y, functional.kaf_plain(x.double(), layer.alpha, layer.dictionary, layer.bandwidth)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_parameters_get_the_sum_over_channels(backend):
    layer = KAF(3)
    x, g = torch.randn(2, 5, 3, 4)
    tensors = [t.detach().requires_grad_() for t in (layer.alpha, layer.dictionary, layer.bandwidth)]
    grads = torch.autograd.grad(functional.kaf(x, *tensors, backend=backend), tensors, g)
    expected = torch.autograd.grad(functional.kaf_plain(x, *tensors), tensors, g)
    torch.testing.assert_close(grads, expected, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("arguments", [{}, FREE])
@pytest.mark.parametrize("shape", [(300, 20, 8, 8), (40, 3, 32, 32), (500, 20)])
def test_cpu_results_do_not_depend_on_threads_or_on_the_run(shape, arguments):
    layer = make(shape[1], **arguments)
    x, g = torch.randn(2, *shape)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 3, 2, 2):
            torch.set_num_threads(count)
            runs.append(value_and_gradients(layer, x, g, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert torch.equal(run[0], runs[0][0]) and torch.equal(run[1], runs[0][1])
    assert all(torch.equal(a, b) for a, b in zip(runs[2], runs[3], strict=True))


@needs_compiler
def test_cpu_takes_what_it_covers():
    layer = KAF(2)
    x = torch.randn(3, 2)
    assert cpu.supports(x, layer.dictionary, layer.bandwidth, "gaussian")
    assert not cpu.supports(x, layer.dictionary, layer.bandwidth, "relu")
    assert not cpu.supports(x.double(), layer.dictionary, layer.bandwidth, "gaussian")
    assert not cpu.supports(x, layer.dictionary, torch.tensor(1e9), "gaussian")
    for bad in (0.0, -1.0, math.nan):
        assert not cpu.supports(x, layer.dictionary, torch.tensor([1.0, bad]), "gaussian")
    layer.bandwidth.fill_(-0.01)
    torch.testing.assert_close(
        layer(x),
        functional.kaf_plain(x, layer.alpha, layer.dictionary, layer.bandwidth),
        rtol=1e-4,
        atol=1e-5,
    )


@interpreter.inside
def test_the_gpu_code_is_used_where_it_agrees_with_the_portable_code():
    assert gpu.agrees(torch.device("cpu"))


def test_gpu_code_that_computes_wrongly_or_fails_is_not_used(monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "forward", lambda x, *_: x + 1)
        patch.setattr(gpu, "backward", lambda grad, x, alpha, *_: (x, alpha, None, None))
        assert not gpu.agrees(torch.device("cpu"))
        assert "results differ" in caplog.text

    def broken(*_):
        raise RuntimeError("no kernel image\nand more")

    monkeypatch.setattr(gpu, "forward", broken)
    assert not gpu.agrees(torch.device("cpu"))
    assert "no kernel image" in caplog.text and "and more" not in caplog.text


def test_triton_kernels_in_the_interpreter():
    interpreter.run(__file__, "layers or extremes or nan or shared or agree")


@pytest.mark.parametrize(
    ("kernel", "order", "side_by_side"),
    [("forward", None, False), ("backward", 0, True), ("backward", 2, False)],
)
def test_triton_kernels_compile_for_a_gpu_that_is_not_here(kernel, order, side_by_side):
    compiler = pytest.importorskip("triton.compiler")
    target = pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    from kafnets.activations.kaf import triton_kernels

    x = torch.empty(2, 16, 8, 8)
    if side_by_side:
        x = x.contiguous(memory_format=torch.channels_last)
    layer = KAF(16, **(FREE if order == 2 else {}))
    _, arguments = gpu._launch(x, layer.alpha, layer.dictionary, layer.bandwidth)
    constants = {name: value for name, value in arguments.items() if name.isupper()}
    constants |= {} if order is None else {"NEEDS_X": True, "ORDER": order}
    function = getattr(triton_kernels, kernel)
    types = dict.fromkeys(("x", "y", "g", "grad_x"), "*bf16") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("alpha", "dictionary", "bandwidth", "sums"), "*fp32")
    types |= dict.fromkeys(("points", "channels", "stride_c"), "i32")
    of_base = ("base_weight", "ends", "base_sums", "boundary", "BASE", "TAILS", "NEEDS_BASE")
    types |= dict.fromkeys(of_base, "constexpr")
    constants = {**dict.fromkeys(name for name in of_base if name in function.arg_names), **constants}
    constants |= {name: 0 for name in ("BASE", "TAILS", "NEEDS_BASE") if name in function.arg_names}
    signature = {name: types[name] for name in function.arg_names}
    constants = {(function.arg_names.index(name),): value for name, value in constants.items()}
    compiled = compiler.compile(compiler.ASTSource(function, signature, constants, {}), target=target)
    assert "sm_90" in compiled.asm["ptx"]


def test_the_active_backend_is_named(monkeypatch):
    monkeypatch.setattr(functional, "_forced", None)
    monkeypatch.delenv("KAFNETS_KAF_BACKEND", raising=False)
    assert functional.active_backend("cpu") == ("cpu" if cpu.available() else "portable")
    functional.set_backend("portable")
    assert functional.active_backend("cpu") == functional.active_backend("cuda") == "portable"
    functional.set_backend("triton")
    assert functional.active_backend("cpu") == "portable"


def test_scripts_say_in_one_line_that_the_environment_names_no_backend(tmp_path):
    data = tmp_path / "digits.safetensors"
    save(prepare_digits(), data, tmp_path / "digits.json")
    save_model(create_model("resnet8", "kaf"), tmp_path / "model.safetensors")
    evaluation = evaluation_arguments(tmp_path, data, "kaf", "pgd")
    at = evaluation.index("--model-record")
    calls = {
        "train.py": training_arguments(tmp_path, data, "kaf"),
        "evaluate.py": evaluation[:at] + evaluation[at + 2 :],
    }
    environment = {**os.environ, "KAFNETS_KAF_BACKEND": "fpga"}
    for name, arguments in calls.items():
        command = [sys.executable, SCRIPTS / name, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
        assert (
            "KAFNETS_KAF_BACKEND must be one of auto, plain, portable, cpu, triton, got 'fpga'" in done.stderr
        )
    assert not list(tmp_path.glob("*.json"))[1:]


SCRIPT = """
import logging, torch
logging.basicConfig(format="%(message)s")
from kafnets import KAF
layer = KAF(2)
x = torch.randn(3, 2)
assert torch.isfinite(layer(x)).all() and torch.isfinite(layer(x)).all()
"""


def run_python(script, **environment):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), **environment}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_without_a_compiler_kaf_runs_and_says_so_once(tmp_path):
    said = run_python(SCRIPT, PATH="", CXX="", KAFNETS_CACHE=str(tmp_path))
    assert said.count("no C++ compiler found") == 1
    assert not list(tmp_path.iterdir())


def test_a_failing_compiler_is_survived(tmp_path):
    compiler = tmp_path / "cxx"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho out of luck >&2\nexit 1\n')
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    said = run_python(SCRIPT, CXX=str(compiler), KAFNETS_CACHE=str(cache))
    assert said.count("out of luck") == 1
    assert not list(cache.iterdir())


@needs_compiler
def test_the_library_is_built_once(tmp_path):
    for _ in range(2):
        assert not run_python(SCRIPT, KAFNETS_CACHE=str(tmp_path))
        (built,) = tmp_path.iterdir()
        stamp = built.stat().st_mtime_ns
    assert built.stat().st_mtime_ns == stamp


ELSEWHERE = """
import torch
from kafnets import KAF
from kafnets.activations.kaf.functional import kaf_plain
from kafnets.models.fused import cpu, operators, trial

torch.manual_seed(0)
layer = KAF(16)
for layout in (torch.channels_last, torch.contiguous_format):
    x = (3 * torch.randn(8, 16, 30, 30)).contiguous(memory_format=layout).requires_grad_()
    grad = torch.randn_like(x)
    parameters = [layer.alpha, layer.dictionary, layer.bandwidth]
    y, right = layer(x), kaf_plain(x.double(), *(t.double() for t in parameters))
    found = [y, *torch.autograd.grad(y, [x, layer.alpha], grad)]
    expected = [right, *torch.autograd.grad(right, [x, layer.alpha], grad.double())]
    for one, other in zip(found, expected):
        assert (one - other).abs().max() < 1e-5 * other.abs().max(), layout
norm, x = torch.nn.BatchNorm2d(16), torch.empty(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
for activation in (torch.nn.ReLU(), torch.nn.ELU(), torch.nn.SiLU()):
    assert cpu.supports(x)
    assert trial.agrees(cpu.fused, operators.plain, x, norm, activation, {"added", "residual"}, 2)
"""


@needs_compiler
def test_what_is_compiled_for_other_processors_computes_the_same(tmp_path):
    """Without the instructions of this one: the code for AVX-512 has a plain counterpart."""
    compiler = tmp_path / "cxx"
    compiler.write_text(
        '#!/bin/sh\nfor word; do shift; [ "$word" = -march=native ] || set -- "$@" "$word"; done\n'
        f'exec {compiled._compiler()} "$@"\n'
    )
    compiler.chmod(0o755)
    assert not run_python(ELSEWHERE, CXX=str(compiler), KAFNETS_CACHE=str(tmp_path / "cache"))
