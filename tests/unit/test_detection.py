"""Detectors: what they see against the formulas, their training, and their files."""

import io

import numpy as np
import pytest
import torch
from attack_cases import small_net
from detection_cases import SHAPE, images, network, training_set
from kafnets import create_model
from kafnets.activations import create_activation
from kafnets.detection import training
from kafnets.detection.activation_statistics import ActivationStatistics, responses, slope
from kafnets.detection.attacks import static_pgd
from kafnets.detection.base import middle_of
from kafnets.detection.confidence import Confidence
from kafnets.detection.metzen import Metzen
from kafnets.detection.saving import create_detector, load_detector, save_detector
from kafnets.detection.training import Recipe, recipe_of, train
from kafnets.runtime.errors import UserError
from safetensors.torch import save_file
from torch import nn

# -- features and scores


def test_confidence_is_the_log_odds_of_an_error():
    net = small_net(dtype=torch.float32).eval()
    detector = Confidence(net)
    logits, scores = detector.look(images(20))
    largest = logits.double().softmax(1).amax(1)
    torch.testing.assert_close(scores.double(), ((1 - largest) / largest).log(), rtol=1e-4, atol=1e-4)
    # where the probability is 1 in float32 the order is still known
    far = torch.tensor([[60.0, 0.0, 0.0], [70.0, 0.0, 0.0]])
    assert far.softmax(1).amax() == 1 and detector.score_of(far)[0] > detector.score_of(far)[1]


@pytest.fixture(params=["kaf", "kaf_free", "relu", "maxmin"])
def stacked(request):
    """Two activation layers in float64, of maps and of a dense layer, and a network of them."""
    torch.manual_seed(0)
    name = request.param
    first, second = create_activation(name, 4), create_activation(name, 6)
    if name == "kaf_free":
        with torch.no_grad():
            for layer in (first, second):
                layer.dictionary += 0.1 * torch.randn_like(layer.dictionary)
                layer.bandwidth *= 1.3
    if name.startswith("kaf"):
        with torch.no_grad():
            first.alpha.mul_(30)
            second.alpha.mul_(30)
    layers = (nn.Conv2d(3, 4, 3, stride=4), first, nn.Flatten(), nn.Linear(64, 6), second, nn.Linear(6, 3))
    net = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        net[0].weight.mul_(8)
        net[3].weight.mul_(4)
    return name, net


def statistics_of(name, layer, z):
    """Of one image, z (C, P): the shares and the responses, by their formulas, number by number."""
    if name.startswith("kaf"):
        points, gamma = layer.dictionary.numpy(), layer.bandwidth.numpy()
    else:
        points, gamma = np.linspace(-3, 3, 20), np.array(1 / (6 * (6 / 19) ** 2))
    points = np.broadcast_to(points, (len(z), 20))
    gamma = np.broadcast_to(gamma, len(z))

    def share(excess):
        return np.mean(1 / (1 + np.exp(-np.asarray(excess) / 0.1)))

    found = [share(np.abs(z) - np.abs(points).max(1)[:, None])]
    if name != "maxmin":
        h, x = 1e-6, torch.from_numpy(z)[None]
        with torch.no_grad():
            f = [layer(x + shift)[0].numpy() for shift in (h, -h)]
        found.append(share(np.abs((f[0] - f[1]) / (2 * h)) - 2))
    for c in range(len(z)):
        found += [np.mean(np.exp(-gamma[c] * (z[c] - point) ** 2)) for point in points[c]]
    return found


def test_statistics_are_their_formulas(stacked):
    name, net = stacked
    detector = ActivationStatistics(net, images(1).double())
    pixels = images(3).double()
    with torch.no_grad():
        logits, features = detector.features(pixels)
        torch.testing.assert_close(logits, net(pixels))
        first = net[0](pixels).flatten(2).numpy()
        second = net[:4](pixels).numpy()
        for parameter in net.parameters():
            parameter.requires_grad_(False)
    for image in range(3):
        expected = statistics_of(name, net[1], first[image])
        expected += statistics_of(name, net[4], second[image][:, None])
        np.testing.assert_allclose(features[image].numpy(), expected, rtol=1e-5, atol=1e-7)
    # every kind of feature varies, but for the slope of ReLU
    deviation = features.std(0)
    assert deviation[0] > 1e-6 and deviation[-20:].max() > 1e-3
    assert name == "relu" or name == "maxmin" or deviation[1] > 1e-6


def test_their_gradients_are_those_of_differences(stacked):
    _, net = stacked
    detector = ActivationStatistics(net, images(1).double(), statistics=("beyond", "steep", "responses"))
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(detector.mean.shape, generator=generator, dtype=torch.float64)
    pixels = images(2, seed=3).double().requires_grad_()
    (gradient,) = torch.autograd.grad((detector.features(pixels)[1] @ weights).sum(), pixels)
    direction = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    h = 1e-6
    with torch.no_grad():
        ends = [detector.features(pixels + shift * direction)[1] @ weights for shift in (h, -h)]
    expected = (ends[0] - ends[1]) / (2 * h)
    found = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().min() > 1e-3


def test_the_responses_have_the_gradient_of_their_formula():
    torch.manual_seed(0)
    z = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    points, gamma = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: responses(x, points, gamma), z)
    assert torch.autograd.gradcheck(lambda x: responses(x, points[:1], gamma[:1]), z)


def test_a_slope_leaves_no_graph_where_none_is_asked_for():
    layer, z = nn.Tanh(), torch.linspace(-2, 2, 7)[:, None]
    with torch.no_grad():
        found = slope(layer, z)
    assert not found.requires_grad
    torch.testing.assert_close(found, 1 / z.cosh() ** 2)


@pytest.mark.parametrize(
    ("architecture", "layer", "channels"),
    [("resnet8", "layer2", 32), ("preactresnet18", "layer2", 128), ("vgg", "14", 64)],
)
def test_where_features_are_taken(architecture, layer, channels):
    """After the second stage, or the second pooling: of 16 x 16 pixels a map of 8 x 8, or of 4 x 4."""
    torch.manual_seed(0)
    net = create_model(architecture, "relu", image_shape=SHAPE).eval()
    assert middle_of(net) == layer
    detector = create_detector("metzen", net, SHAPE, width=2)
    logits, features = detector.features(images(2))
    size = 4 if architecture == "vgg" else 8
    assert features.shape == (2, channels, size, size)
    torch.testing.assert_close(logits, net(images(2)))
    # the same by hand: the stages of a residual network one after the other
    if architecture == "vgg":
        expected = nn.Sequential(*list(net)[:15])(images(2))
    else:
        expected = net.layer2(net.layer1(net.stem(net.normalize(images(2)))))
    torch.testing.assert_close(features, expected)
    assert detector(images(2)).shape == (2,)
    if architecture != "vgg":
        within = create_detector("kaf_statistics", net, SHAPE, layer="layer2")
        assert within.layers and all(name.startswith("layer2.") for name in within.layers)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("metzen", {"layer": "layer9"}, "layer: 'layer9' is no layer of the network; write one of .*layer2"),
        ("metzen", {"layer": "fc"}, "no feature map"),
        ("kaf_statistics", {"layer": "fc"}, "no activation layers within 'fc'"),
        ("metzen", {"depth": 3}, "settings of metzen"),
        ("metsen", {}, "did you mean metzen"),
    ],
)
def test_what_is_wrong_is_said(method, settings, message):
    with pytest.raises(UserError, match=message):
        create_detector(method, network("relu"), SHAPE, **settings)


def test_a_network_without_stages_needs_a_layer():
    with pytest.raises(UserError, match="has no second stage"):
        Metzen(small_net(dtype=torch.float32), images(1))


def test_activations_without_a_slope_have_no_statistic_of_it():
    with pytest.raises(UserError, match="none of steep"):
        create_detector("kaf_statistics", network("maxmin"), SHAPE, statistics=["steep"])


# -- training


RECIPE = Recipe(eps=16 / 255, step=4 / 255, iterations=2, epochs=4, batch_size=8, learning_rate=0.02, seed=3)


@pytest.mark.parametrize(("method", "dynamic"), [("kaf_statistics", False), ("metzen", True)])
def test_a_training_goes_on_where_it_was(method, dynamic):
    """After any epoch: the weights are those of the uninterrupted one, to the bit."""
    net, (pixels, labels) = network("kaf_elu"), training_set(12)
    own = {"width": 2} if method == "metzen" else {"layer": "layer3"}
    recipe = Recipe(**{**vars(RECIPE), "dynamic": dynamic, "epochs": 3})
    before = {name: one.clone() for name, one in net.state_dict().items()}

    def run(**options):
        detector = create_detector(method, net, SHAPE, seed=3, **own)
        return detector, train(
            detector, pixels, labels, recipe, batch_size=5, note=lambda text: None, **options
        )

    states = []
    whole, history = run(save=lambda state: states.append(torch_copy(state())))
    assert [one["epoch"] for one in history] == [1, 2, 3] and len(states) == 3
    torch.manual_seed(99)  # of no importance
    resumed, again = run(state=states[0])
    assert again == history
    for name, one in whole.head().items():
        assert torch.equal(one, resumed.head()[name]), name
    start = create_detector(method, net, SHAPE, seed=3, **own).head()
    assert any(not torch.equal(start[name], one) for name, one in whole.head().items())
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert not whole.training


def torch_copy(state):
    """As a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_what_it_learns_tells_attacked_images_from_clean_ones():
    """Uniform grey images: their attacked selves are the only ones with texture."""
    net = network("relu")
    grey = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, *SHAPE) * 10 + 50
    labels = torch.arange(16) % 10
    detector = create_detector("metzen", net, SHAPE, width=4)
    recipe = Recipe(**{**vars(RECIPE), "epochs": 15})
    history = train(detector, grey, labels, recipe, note=lambda text: None)
    assert history[-1]["accuracy"] > 0.9 and history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("seed", [0, 3])
def test_it_does_not_learn_the_noise_of_the_attacks(monkeypatch, seed):
    """The same seed gives training images and attacked images different starts."""
    net, (pixels, labels) = network("relu"), training_set(8)
    given = []

    def noting(*arguments, **options):
        given.append(static_pgd(*arguments, **options))
        return given[-1]

    monkeypatch.setattr(training, "static_pgd", noting)
    # a step of no length: what is crafted is the start itself
    recipe = Recipe(**{**vars(RECIPE), "step": 0.0, "epochs": 1, "seed": seed})
    train(create_detector("metzen", net, SHAPE, width=2), pixels, labels, recipe, note=lambda text: None)
    judged = static_pgd(net, pixels / 255, labels, eps=recipe.eps, step=0.0, iterations=1, seed=seed)
    crafted, attacked = (one.adversarial - pixels / 255 for one in (given[0], judged))
    assert crafted.abs().max() > recipe.eps / 2
    assert abs(np.corrcoef(crafted.flatten(), attacked.flatten())[0, 1]) < 0.1


def test_a_loss_that_is_no_number_ends_it():
    net, (pixels, labels) = network("relu"), training_set(8)
    detector = create_detector("metzen", net, SHAPE, width=2)
    with torch.no_grad():
        detector.subnetwork[0].weight.fill_(float("nan"))
    with pytest.raises(UserError, match="loss is nan in epoch 1; write a smaller learning_rate"):
        train(detector, pixels, labels, RECIPE, note=lambda text: None)
    with pytest.raises(UserError, match="training set is empty"):
        train(detector, pixels[:0], labels[:0], RECIPE)


def test_what_a_configuration_says():
    own, recipe = recipe_of({"method": "metzen", "eps": "8/255", "step": "2/255", "width": 5}, 7)
    assert own == {"width": 5} and recipe == Recipe(eps=8 / 255, step=2 / 255, seed=7)
    assert recipe_of({"method": "confidence"}, 0) == ({}, None)
    with pytest.raises(UserError, match="detector metzen: epochs: "):
        recipe_of({"method": "metzen", "eps": "8/255", "step": "2/255", "epochs": 0}, 0)


# -- files


@pytest.mark.parametrize("method", ["confidence", "metzen", "kaf_statistics"])
def test_a_file_holds_the_detector(tmp_path, method):
    net = network("kaf_relu")
    settings = {"metzen": {"width": 3}, "kaf_statistics": {"layer": "layer3", "hidden": 4}}.get(method, {})
    detector = create_detector(method, net, SHAPE, seed=5, **settings)
    path = tmp_path / "detector.safetensors"
    save_detector(detector, path)
    loaded = load_detector(path, net)
    assert torch.equal(loaded(images(4)), detector(images(4)))
    assert not any(name.startswith("network.") for name in detector.head())


def test_a_file_of_something_else_is_refused(tmp_path):
    net = network("relu")
    path = tmp_path / "detector.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_detector(path, net)
    save_detector(create_detector("kaf_statistics", net, SHAPE, layer="layer3"), path)
    with pytest.raises(UserError, match="of another detector"):
        load_detector(path, network("maxmin"))
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not the file of a detector"):
        load_detector(path, net)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_detector(path, net)
