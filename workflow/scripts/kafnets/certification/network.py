"""A network as a list of steps, over which bounds are propagated.

A network's calls are recorded by torch.fx; each becomes a step whose operation is known (:mod:`.operations`),
or the network is refused. So nothing is proved of a function that is not the network's.
"""

import copy
import operator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from ..models.lipschitz import plain
from ..models.resnet import Normalize, PaddedShortcut, SameConv2d
from .operations import (
    Activation,
    Addition,
    Averaging,
    Convolution,
    Dense,
    Dropping,
    MaxPooling,
    Normalisation,
    Reshaping,
    Selection,
    Standardisation,
)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RESHAPINGS = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
_MEANS = (torch.mean, "mean")
# functions that are what a layer without arguments is
_FUNCTIONS = {
    **dict.fromkeys((torch.relu, functional.relu, "relu"), nn.ReLU),
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((functional.elu,), nn.ELU),
    **dict.fromkeys((functional.gelu,), nn.GELU),
    **dict.fromkeys((functional.silu,), nn.SiLU),
    **dict.fromkeys((functional.softplus,), nn.Softplus),
}
# The steps may differ from the network's own answers by so much of their range, both in float64.
_ROUNDING = 1e-8


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a network.

    Args:
        name (str): of the layer, or of the function that is called.
        operation (object): of :mod:`.operations`; None for the images.
        inputs (tuple of int): whose results it takes: numbers of earlier steps.
        shape (tuple of int): of its result, for one image.
    """

    name: str
    operation: object
    inputs: tuple
    shape: tuple

    @property
    def size(self):
        """How many numbers its result has for one image."""
        return int(torch.Size(self.shape).numel())


class Network:
    """The steps of a network, in an order in which they can be computed.

    Called with images it returns the logits. What walks over it reads :attr:`steps`, or calls :meth:`walk`.

    Attributes:
        steps (list of Step): the first stands for the images, the last is the logits.
    """

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, images):
        return self.walk(images, lambda step, *values: step.operation(*values))

    def walk(self, value, visit):
        """The last step's result, of whatever kind the results are.

        Args:
            value: the images'.
            visit (callable): called as visit(step, \\*results of its inputs); returns the step's result.
        """
        last = {number: index for index, step in enumerate(self.steps) for number in step.inputs}
        results = {0: value}
        for index, step in enumerate(self.steps[1:], 1):
            results[index] = visit(step, *(results[number] for number in step.inputs))
            for number in {number for number in step.inputs if last[number] == index}:
                del results[number]  # nobody reads it any more
        return results[len(self.steps) - 1]

    @property
    def shape(self):
        """Of one image."""
        return self.steps[0].shape

    @property
    def num_classes(self):
        return self.steps[-1].shape[0]


def network_of(model, image_shape):
    """The steps of a network in evaluation mode, in float64.

    Batch normalisations with fixed statistics are folded into the convolutions and dense layers before them
    where nobody else reads these, and stay steps of their own elsewhere. Dropouts and identities are left
    out.

    Args:
        model (nn.Module): images in [0, 1] to logits; it is not changed. Layers that it may be made of:
            convolutions, dense layers, batch normalisations, the networks' own input normalisations and
            padded shortcuts, sums, means over rows and columns, average and maximum pooling, flattening,
            dropout, and activations.
        image_shape (sequence of 3 ints): channels, rows and columns.

    Returns:
        Network

    Raises:
        ValueError: for a network whose calls cannot be recorded, and for a layer of another kind; names it.
    """
    model = plain(copy.deepcopy(model).double().eval()).requires_grad_(False)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _hold_weights(module)
    images = torch.rand(3, *image_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = images.to(_device_of(model))
    network = _Reading(model, model, image_shape).network()
    with torch.no_grad():
        expected = model(images)  # before its layers take in the normalisations
        _fold(network)
        found = network(images)
    same = found.shape == expected.shape
    if not same or not (found - expected).abs().amax() <= _ROUNDING * expected.abs().amax():
        raise ValueError("model: computes something else than its layers one after another")
    return network


def live_network_of(model, image_shape):
    """The steps of a network that is being trained: they read its parameters where these are.

    Nothing is folded, and dropouts are steps.

    Args:
        model, image_shape: as of :func:`network_of`.

    Returns:
        Network

    Raises:
        ValueError: as of :func:`network_of`.
    """
    recorded = copy.deepcopy(model).double().eval().requires_grad_(False)
    return _Reading(recorded, model, image_shape).network()


class _Tracer(fx.Tracer):
    """Records the calls of activations and of modules without children, whatever they do inside."""

    def is_leaf_module(self, module, qualified_name):
        plain = hasattr(module, "activation_name") or not any(True for _ in module.children())
        return plain or super().is_leaf_module(module, qualified_name)


class _Shapes(fx.Interpreter):
    """What the results of a graph's nodes are for two images of zeros; None for what is none of images."""

    def run_node(self, node):
        result = super().run_node(node)
        of_images = isinstance(result, torch.Tensor) and result.dim() > 0 and len(result) == 2
        node.meta["shape"] = tuple(result.shape[1:]) if of_images else None
        return result


class _Reading:
    """One reading of a network's graph.

    Args:
        recorded (nn.Module): whose calls are recorded; in evaluation mode and float64.
        model (nn.Module): whose layers the operations hold.
        image_shape: as of :func:`network_of`.
    """

    def __init__(self, recorded, model, image_shape):
        self.live = recorded is not model
        for name, module in model.named_modules():
            if any(getattr(module, hooks) for hooks in _HOOKS):
                raise ValueError(
                    f"model: {name or 'the network'} has hooks, which may change what it computes"
                )
        try:
            graph = _Tracer().trace(recorded)
            zeros = torch.zeros(2, *image_shape, dtype=torch.float64, device=_device_of(recorded))
            _Shapes(fx.GraphModule(recorded, graph)).run(zeros)
        except Exception as error:  # what a forward may do that cannot be recorded has no common error class
            message = str(error).partition("\n")[0]
            raise ValueError(f"model: its calls cannot be recorded as steps: {message}") from None
        self.graph, self.model, self.image_shape = graph, model, tuple(image_shape)
        self.steps, self.numbers = [], {}

    def network(self):
        for node in self.graph.nodes:
            if node.op == "output":
                return self._ended(node)
            self._read(node)
        raise AssertionError("a graph ends with its output")

    def _ended(self, node):
        (last,) = node.args
        if last not in self.numbers or self.numbers[last] != len(self.steps) - 1:
            raise ValueError("model: its last step is not what it returns; let it return the logits")
        if len(self.steps[-1].shape) != 1:
            raise ValueError(f"model: returns {self.steps[-1].shape} for an image, not logits")
        return Network(self.steps)

    def _read(self, node):
        """Adds the step of a node; sizes are none, and who takes anything else is refused."""
        shape = node.meta["shape"]
        if node.op == "placeholder":
            if self.steps:
                raise ValueError(f"model: takes {node.name} beside the images")
            self._add(node, "images", None, (), shape)
        elif shape is not None:
            name, operation, inputs = self._operation(node)
            if operation is None:
                self.numbers[node] = self._number(inputs[0], name)
            else:
                self._add(node, name, operation, [self._number(one, name) for one in inputs], shape)

    def _add(self, node, name, operation, inputs, shape):
        self.numbers[node] = len(self.steps)
        self.steps.append(Step(name, operation, tuple(inputs), shape))

    def _number(self, node, name):
        if node not in self.numbers:
            raise ValueError(f"model: {name} is applied to something that is not computed from the images")
        return self.numbers[node]

    def _operation(self, node):
        """The name of a step, its operation (None where it changes nothing), and the nodes it takes."""
        if node.op == "call_module":
            if len(node.args) != 1 or node.kwargs:
                raise ValueError(f"model: {node.target} takes more than one argument, or one by name")
            layer = self.model.get_submodule(node.target)
            _check_overwritten(node, node.target, getattr(layer, "inplace", False))
            return node.target, self._of_layer(node.target, layer, node), node.args
        name = f"{getattr(node.target, '__name__', node.target)} ({node.name})"
        if node.op in ("call_function", "call_method"):
            overwrites = node.kwargs.get("inplace") or node.target in (operator.iadd, "add_")
            _check_overwritten(node, name, overwrites)
            operation = self._of_function(node)
            if operation is not None:
                inputs = node.args[: 2 if isinstance(operation, Addition) else 1]
                return name, operation, inputs
        raise ValueError(f"model: {name} is none of the functions whose bounds are known")

    def _of_layer(self, name, layer, node):
        before = node.args[0].meta["shape"]
        if isinstance(layer, nn.Identity):
            return None
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            return Dropping(layer) if self.live else None
        kind = _kind(layer)
        if kind in (nn.Conv2d, SameConv2d) and layer.padding_mode == "zeros" and len(before) == 3:
            return Convolution(layer, _padding(layer, before))
        if kind is nn.Linear and len(before) == 1:
            return Dense(layer)
        if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.running_mean is not None:
            return Normalisation(layer, len(before))
        if kind is Normalize:
            return Standardisation(layer, len(before))
        if kind in (PaddedShortcut, nn.PixelUnshuffle):
            return Selection(layer)
        if kind in (nn.AvgPool2d, nn.AdaptiveAvgPool2d):
            return Averaging(layer, before[-2] * before[-1])
        if kind is nn.MaxPool2d and not layer.return_indices and not layer.ceil_mode:
            return MaxPooling(layer)
        if kind is nn.Flatten and layer.start_dim == 1:
            return Reshaping(node.meta["shape"])
        if hasattr(layer, "activation_name") or kind.__module__ == nn.ReLU.__module__:
            return Activation(layer)
        raise ValueError(
            f"model: no bounds are known of {name or 'the network'}, a {kind.__name__}; use the layers that "
            "network_of names"
        )

    def _of_function(self, node):
        target, (first, *rest) = node.target, node.args or (None,)
        if not isinstance(first, fx.Node) or first.meta["shape"] is None:
            return None
        before, after = first.meta["shape"], node.meta["shape"]
        if target in _ADDITIONS and not node.kwargs and len(rest) == 1:
            same = isinstance(rest[0], fx.Node) and rest[0].meta["shape"] == before
            return Addition() if same else None
        if target in _RESHAPINGS and torch.Size(before).numel() == torch.Size(after).numel():
            return Reshaping(after)
        if target in _MEANS:
            return _mean(rest, node.kwargs, before)
        if target in _FUNCTIONS and not rest and not set(node.kwargs) - {"inplace"}:
            return Activation(_FUNCTIONS[target]())
        return None


def _check_overwritten(node, name, overwrites):
    if overwrites and len(node.args[0].users) > 1:
        raise ValueError(f"model: {name} overwrites what others read, too; let it work out of place")


def _device_of(model):
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


@torch.no_grad()
def _hold_weights(layer):
    """Puts weights that are computed in every pass in place of their computation.

    torch's own function for that takes them out of the layer's class, which a copy shares with its original.
    """
    values = {name: getattr(layer, name) for name in layer.parametrizations}
    layer.__class__ = _kind(layer)
    del layer.parametrizations
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))


def _kind(layer):
    """The class that a layer was made of: a parametrized one computes as before, with other weights."""
    kind = type(layer)
    return kind.__mro__[1] if parametrize.is_parametrized(layer) else kind


def _padding(layer, before):
    """Zeros left, right, above and below."""
    if isinstance(layer, SameConv2d):
        return layer.margins(torch.empty(1, *before, device="meta"))
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return 0, 0, 0, 0
        above, left = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return left // 2, left - left // 2, above // 2, above - above // 2
    above, left = layer.padding
    return left, left, above, above


def _mean(rest, named, before):
    """A mean over rows and columns alone."""
    arguments = dict(zip(("dim", "keepdim"), rest, strict=False)) | named
    dims, keep = arguments.pop("dim", None), arguments.pop("keepdim", False)
    if arguments or len(before) != 3 or not isinstance(dims, tuple | list):
        return None
    if {dim % 4 for dim in dims} != {2, 3}:
        return None
    return Averaging(lambda x: x.mean((2, 3), keepdim=keep), before[1] * before[2])


def _fold(network):
    """Takes the normalisations into the layers before them, where these are called once and read once."""
    steps, moved = [], {}
    read = [number for step in network.steps for number in step.inputs]
    layers = [getattr(step.operation, "layer", None) for step in network.steps]
    for index, step in enumerate(network.steps):
        inputs = tuple(moved[number] for number in step.inputs)
        if isinstance(step.operation, Normalisation):
            before = network.steps[step.inputs[0]].operation
            single = read.count(step.inputs[0]) == 1
            if isinstance(before, Convolution | Dense) and single and layers.count(before.layer) == 1:
                _take_in(before, step.operation)
                moved[index] = inputs[0]
                continue
        moved[index] = len(steps)
        steps.append(Step(step.name, step.operation, inputs, step.shape))
    network.steps = steps


def _take_in(operation, normalisation):
    """Lets a convolution or a dense layer compute the normalisation of its output."""
    layer, (scale, shift) = operation.layer, normalisation.factors()
    operation.folded = normalisation.shift_size()
    if layer.bias is not None:
        operation.folded = operation.folded + (layer.bias * scale).abs()
        shift = layer.bias * scale + shift
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight, layer.bias = (nn.Parameter(values, requires_grad=False) for values in (weight, shift))
