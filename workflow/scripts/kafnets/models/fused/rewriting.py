"""A network's training pass with fewer operations, found in the graph of its calls."""

import itertools
import operator

import torch
from torch import fx, nn

from . import layers

_ADDITIONS = (operator.add, torch.add, "add")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fused(model):
    r"""The training pass of a network with its layers computed several at a time.

    - Normalisation, activation and the additions around them are one operator, see :mod:`.operators`.
    - A convolution whose output is only normalised does without its bias :math:`b`, which shifts the mean of
      the batch as every value: :math:`x + b - \operatorname{mean}(x + b) = x - \operatorname{mean}(x)`.
      So the loss does not depend on :math:`b`, and its gradient is zero; layer by layer it is the sum of the
      gradients behind the normalisation's mean, which is zero but for rounding. Here it is a tensor of zeros.
      The running mean counts the bias in.
    - Under autocast all weights are cast at once.
    - Convolutions that ask for the same zeros around the same input share them.

    Args:
        model (nn.Module): in training mode; neither it nor its parameters and buffers are changed.

    Returns:
        Fused: called like the model, with its parameters and buffers.

    Raises:
        Unfusable: where the calls cannot be recorded, and for a network with hooks.
    """
    graph = _trace(model)
    rewriting = _Rewriting(model, graph)
    rewriting.share_margins()
    rewriting.replace_normalisations()
    rewriting.replace_means()
    rewriting.replace_products()
    graph.lint()
    traced = fx.GraphModule(rewriting.modules, graph)
    return Fused(model, traced, rewriting.given, rewriting.shifts)


class Unfusable(Exception):
    """Why a network has to be called layer by layer, in words."""


class Fused:
    """What :func:`fused` returns.

    Outside training mode, be it of a single layer, and while something hooks in, the model itself is called.
    """

    def __init__(self, model, traced, given, shifts):
        self.model, self.traced, self.given, self.shifts = model, traced, given, shifts

    def __call__(self, x):
        if not all(module.training and not _has_hooks(module) for module in self.model.modules()):
            return self.model(x)
        tensors = layers.cast([getattr(layer, name) for layer, name in self.given], x.device.type)
        biases = [[layer.bias for layer in group] for group in self.shifts]
        y = self.traced(x, tensors, layers.sums(biases))
        return layers.WithoutEffect.apply(y, *itertools.chain(*biases)) if biases else y


def _trace(model):
    """The graph of the calls in training mode.

    What is drawn at random outside of the graph would stay the same for ever: two recordings differ then, or
    hold a tensor that is none of the network's.
    """
    if any(_has_hooks(module) for module in model.modules()):
        raise Unfusable("it has hooks")
    if not all(module.training for module in model.modules()):
        raise Unfusable("a layer of it is not in training mode")
    try:
        with torch.random.fork_rng(devices=[]):
            graphs = [_Tracer().trace(model) for _ in range(2)]
    except Unfusable:
        raise
    except Exception as error:  # what a forward may do that cannot be traced has no common error class
        raise Unfusable(f"its calls cannot be recorded: {error}".partition("\n")[0]) from None
    graph = graphs[0]
    if str(graphs[0]) != str(graphs[1]):
        raise Unfusable("its calls differ from pass to pass")
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        raise Unfusable("it takes more than the images")
    return graph


class _Tracer(fx.Tracer):
    """Records the calls of activations and of modules without children, whatever they do inside."""

    def is_leaf_module(self, module, qualified_name):
        plain = hasattr(module, "activation_name") or not any(True for _ in module.children())
        return plain or super().is_leaf_module(module, qualified_name)

    def create_arg(self, value):
        if isinstance(value, torch.Tensor):
            held = itertools.chain(self.root.parameters(), self.root.buffers())
            if not any(value is tensor for tensor in held):
                raise Unfusable("it makes a tensor in its pass")
        return super().create_arg(value)


def _has_hooks(module):
    return any(getattr(module, hooks) for hooks in _HOOKS)


class _Rewriting:
    """One rewriting of a graph, which is changed in place.

    Attributes:
        modules (dict): what the graph calls and reads, by name.
        given (list): (layer, name) of the parameters that come as the graph's second argument.
        shifts (list): groups of convolutions without their biases, whose sums come as its third.
    """

    def __init__(self, model, graph):
        self.graph = graph
        self.modules = dict(model.named_modules(remove_duplicate=False))
        read = {node.target for node in graph.nodes if node.op == "get_attr"}
        self.modules |= {name: operator.attrgetter(name)(model) for name in read}
        (images,) = (node for node in graph.nodes if node.op == "placeholder")
        with graph.inserting_after(images):
            weights = graph.placeholder("weights")
        with graph.inserting_after(weights):
            shifts = graph.placeholder("shifts")
        self.lists = {"given": weights, "shifts": shifts}
        self.given, self.shifts, self.arguments = [], [], {}
        self.sites = set()

    def share_margins(self):
        """What convolutions put around their inputs, once for those that ask for the same."""
        for x in list(self.graph.nodes):
            alike = {}
            for user in x.users:
                if self._is_convolution(user) and _has_margins(self.modules[user.target]):
                    layer = self.modules[user.target]
                    alike.setdefault((layer.kernel_size, layer.stride), []).append(user)
            for users in alike.values():
                first = min(users)
                margins = layers.Margins(self.modules[first.target].margins, len(users))
                with self.graph.inserting_before(first):
                    name = self._named(f"{first.target}_margins", margins)
                    padded = self.graph.call_module(name, (x,))
                for user, copy in zip(users, _copies(padded, len(users)), strict=True):
                    user.args = (copy,)

    def replace_normalisations(self):
        """Every normalisation by one operator with what can be joined to it."""
        for node in list(self.graph.nodes):
            if self._calls(node, nn.BatchNorm2d):
                self._join(node)

    def _join(self, node):
        joined, activation, residual = self._followers(node)
        last, source = joined[-1], node.args[0]
        terms = source.args if _is_sum(source) and len(source.users) == 1 else (source,)
        without_bias = tuple(layer for layer in map(self._without_bias, terms) if layer is not None)
        site = layers.Site(self.modules[node.target], activation, len(last.users))
        with self.graph.inserting_before(last):
            optional = {
                "added": terms[1] if len(terms) > 1 else None,
                "residual": residual,
                "shift": self._argument("shifts", without_bias) if without_bias else None,
            }
            name = self._named(f"{node.target}_fused", site)
            given = {key: value for key, value in optional.items() if value is not None}
            new = self.graph.call_module(name, (terms[0],), given)
        self.sites.add(new)
        _replace(last, new, site.copies)
        for one in [*reversed(joined), *([source] if len(terms) > 1 else [])]:
            self.graph.erase_node(one)

    def _followers(self, node):
        """The nodes from a normalisation to what is joined to it, the activation, and the other summand."""
        follower = _only_user(node)
        if self._is_activation(follower):
            return [node, follower], self.modules[follower.target], None
        after = _only_user(follower)
        if _is_sum(follower) and self._is_activation(after):
            one, other = follower.args
            if one is not other:
                return [node, follower, after], self.modules[after.target], other if one is node else one
        return [node], nn.Identity(), None

    def _without_bias(self, node):
        """The layer of a convolution with a bias that only a normalisation reads: left out from now on."""
        if not self._is_convolution(node) or len(node.users) != 1:
            return None
        layer = self.modules[node.target]
        if layer.bias is None:
            return None
        node.meta["without_bias"] = True
        return layer

    def replace_means(self):
        """The mean over rows and columns, where it follows a normalisation: of images, therefore."""
        for node in list(self.graph.nodes):
            called = node.op == "call_method" and node.target == "mean" and not node.kwargs
            if called and node.args[0] in self.sites and node.args[1:] in (((2, 3),), ([2, 3],)):
                with self.graph.inserting_before(node):
                    new = self.graph.call_function(layers.mean_of_positions, node.args[:1])
                node.replace_all_uses_with(new)
                self.graph.erase_node(node)

    def replace_products(self):
        """Convolutions and dense layers by functions of weights that come as arguments."""
        for node in list(self.graph.nodes):
            if self._is_convolution(node) or self._calls(node, nn.Linear):
                self._replace_product(node)

    def _replace_product(self, node):
        layer = self.modules[node.target]
        with self.graph.inserting_before(node):
            weight = self._argument("given", (layer, "weight"))
            without = layer.bias is None or node.meta.get("without_bias")
            bias = None if without else self._argument("given", (layer, "bias"))
            if isinstance(layer, nn.Linear):
                new = self.graph.call_function(nn.functional.linear, (node.args[0], weight, bias))
            else:
                padding = 0 if _has_margins(layer) else layer.padding
                rest = (layer.stride, padding, layer.dilation, layer.groups)
                new = self.graph.call_function(torch.conv2d, (node.args[0], weight, bias, *rest))
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def _calls(self, node, kind):
        """Whether a node is a call of a layer of just this kind: what a subclass computes is not known."""
        single = isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1
        return single and not node.kwargs and type(self.modules[node.target]) is kind

    def _is_convolution(self, node):
        """Also one that says how it pads: a class itself, and not one that is derived from it."""
        if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            return False
        layer = self.modules[node.target]
        plain = type(layer) is nn.Conv2d or (isinstance(layer, nn.Conv2d) and _has_margins(layer))
        return plain and layer.padding_mode == "zeros"

    def _is_activation(self, node):
        is_call = node is not None and node.op == "call_module" and len(node.args) == 1 and not node.kwargs
        return is_call and hasattr(self.modules[node.target], "activation_name")

    def _named(self, name, module):
        """Adds a module; the name by which the graph may call it."""
        name = name.replace(".", "_")
        while name in self.modules:
            name += "_"
        self.modules[name] = module
        return name

    def _argument(self, kind, what):
        """The node of a parameter that comes as an argument."""
        key = kind, what
        if key not in self.arguments:
            collected = getattr(self, kind)
            arguments = self.lists[kind], len(collected)
            with self.graph.inserting_after(self.lists["shifts"]):
                self.arguments[key] = self.graph.call_function(operator.getitem, arguments)
            collected.append(what)
        return self.arguments[key]


def _has_margins(layer):
    return "margins" in vars(type(layer))


def _only_user(node):
    """Who reads a node, where that is one alone; None else, and for None."""
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _is_sum(node):
    is_call = node is not None and node.op in ("call_function", "call_method") and node.target in _ADDITIONS
    return (
        is_call and not node.kwargs and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args)
    )


def _replace(old, new, copies):
    """Lets who read `old` read `new`, each one a copy of its own where there are several."""
    users = list(old.users)
    for user, copy in zip(users, _copies(new, copies), strict=True):
        user.replace_input_with(old, copy)


def _copies(node, count):
    """`count` nodes: the outputs of `node`."""
    if count == 1:
        return [node]
    with node.graph.inserting_after(node):
        return [node.graph.call_function(operator.getitem, (node, index)) for index in range(count)]
