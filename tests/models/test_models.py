"""Sizes and state dicts of the networks. Counting runs on torch's meta device."""

import pytest
import torch

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import MODELS, build_model
from rt3d_tvm.prune.macs import count_macs

# Exact counts, from those who publish the networks; the papers round them.
PARAMS = {
    "c3d": 78_409_573,
    "r2plus1d": 31_351_938,
    "s3d": 8_320_048,
    "r3d": 33_371_472,
    "mc3": 11_695_440,
    "r2plus1d_34": 63_697_175,
    "r2plus1d_34_mmaction2": 63_759_281,
    "r2plus1d_50": 28_107_600,
    **dict.fromkeys(("x3d_xs", "x3d_s", "x3d_m"), 3_794_274),
    "x3d_l": 6_153_384,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
}


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return build_model(name, **kwargs)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_the_papers(name):
    spec = MODELS[name]
    model = on_meta(name)
    params = sum(parameter.numel() for parameter in model.parameters())
    macs = sum(layer.dense for layer in count_macs(model, spec.input_shape))
    assert params == PARAMS[name]
    assert params == pytest.approx(spec.paper_params, rel=1e-3)
    assert macs == pytest.approx(spec.paper_macs, rel=2e-3)


def conv(key, *shape):
    return {f"{key}.weight": shape}


def norm(key, channels):
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{kind}": (channels,) for kind in kinds} | {f"{key}.num_batches_tracked": ()}


# Middle channels follow from what enters the block; torchvision's second pair has the first's.
R2PLUS1D_18 = (
    *((64, (144, 144), 144), (128, (230, 288), 230)),
    *((256, (460, 576), 460), (512, (921, 1152), 921)),
)
# VMZ's have their own.
R2PLUS1D_34 = (
    *((64, (144,) * 3, 144), (128, (230, *[288] * 3), 288)),
    *((256, (460, *[576] * 5), 576), (512, (921, *[1152] * 2), 1152)),
)


def torchvision_r2plus1d(stages):
    """State dict of an R(2+1)D at 400 classes in torchvision's names, written down as a rule.

    A stage: filters, the blocks' middle channels, those of the first block's second pair.
    """
    expected = conv("stem.0", 45, 3, 1, 7, 7) | norm("stem.1", 45)
    expected |= conv("stem.3", 64, 45, 3, 1, 1) | norm("stem.4", 64)
    before = 64
    for stage, (filters, middles, second) in enumerate(stages, start=1):
        for block, middle in enumerate(middles):
            key = f"layer{stage}.{block}"
            entering = before if block == 0 else filters
            pairs = (("conv1", entering, middle), ("conv2", filters, middle if block else second))
            for half, channels, inner in pairs:
                expected |= conv(f"{key}.{half}.0.0", inner, channels, 1, 3, 3)
                expected |= norm(f"{key}.{half}.0.1", inner)
                expected |= conv(f"{key}.{half}.0.3", filters, inner, 3, 1, 1)
                expected |= norm(f"{key}.{half}.1", filters)
            if entering != filters:
                expected |= conv(f"{key}.downsample.0", filters, entering, 1, 1, 1)
                expected |= norm(f"{key}.downsample.1", filters)
        before = filters
    return expected | {"fc.weight": (400, 512), "fc.bias": (400,)}


def torchvision_resnet(depths):
    """State dict of torchvision's r3d_18 or mc3_18 at 400 classes, written down as a rule."""
    expected = conv("stem.0", 64, 3, 3, 7, 7) | norm("stem.1", 64)
    before = 64
    for stage, (filters, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
        for block in range(2):
            key = f"layer{stage}.{block}"
            entering = before if block == 0 else filters
            for half, channels in (("conv1", entering), ("conv2", filters)):
                expected |= conv(f"{key}.{half}.0", filters, channels, depth, 3, 3)
                expected |= norm(f"{key}.{half}.1", filters)
            if entering != filters:
                expected |= conv(f"{key}.downsample.0", filters, entering, 1, 1, 1)
                expected |= norm(f"{key}.downsample.1", filters)
        before = filters
    return expected | {"fc.weight": (400, 512), "fc.bias": (400,)}


def torchvision_s3d():
    """State dict of torchvision's s3d at 400 classes, written down as a rule."""

    def unit(key, filters, channels, *kernel):
        return conv(f"{key}.0", filters, channels, *kernel) | norm(f"{key}.1", filters)

    def separable(key, filters, channels, k):
        return unit(f"{key}.0", filters, channels, 1, k, k) | unit(
            f"{key}.1", filters, filters, k, 1, 1
        )

    expected = separable("features.0", 64, 3, 7)
    expected |= unit("features.2", 64, 64, 1, 1, 1) | separable("features.3", 192, 64, 3)
    blocks = {
        5: (192, 64, 96, 128, 16, 32, 32),
        6: (256, 128, 128, 192, 32, 96, 64),
        8: (480, 192, 96, 208, 16, 48, 64),
        9: (512, 160, 112, 224, 24, 64, 64),
        10: (512, 128, 128, 256, 24, 64, 64),
        11: (512, 112, 144, 288, 32, 64, 64),
        12: (528, 256, 160, 320, 32, 128, 128),
        14: (832, 256, 160, 320, 32, 128, 128),
        15: (832, 384, 192, 384, 48, 128, 128),
    }
    for index, (channels, plain, mid1, out1, mid2, out2, pooled) in blocks.items():
        key = f"features.{index}"
        expected |= unit(f"{key}.branch0", plain, channels, 1, 1, 1)
        for branch, middle, filters in (("branch1", mid1, out1), ("branch2", mid2, out2)):
            expected |= unit(f"{key}.{branch}.0", middle, channels, 1, 1, 1)
            expected |= separable(f"{key}.{branch}.1", filters, middle, 3)
        expected |= unit(f"{key}.branch3.1", pooled, channels, 1, 1, 1)
    classifier = {"classifier.1.weight": (400, 1024, 1, 1, 1), "classifier.1.bias": (400,)}
    return expected | classifier


def linear(key, filters, channels):
    return {f"{key}.weight": (filters, channels), f"{key}.bias": (filters,)}


def torchvision_vgg16():
    """State dict of torchvision's vgg16, written down as a rule."""
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    filters = (64, 64, 128, 128, 256, 256, 256, *[512] * 6)
    expected = {}
    for index, channels, m in zip(indices, (3, *filters), filters, strict=False):
        expected |= conv(f"features.{index}", m, channels, 3, 3) | {f"features.{index}.bias": (m,)}
    for index, channels, m in ((0, 25088, 4096), (3, 4096, 4096), (6, 4096, 1000)):
        expected |= linear(f"classifier.{index}", m, channels)
    return expected


def torchvision_resnet50():
    """State dict of torchvision's resnet50, written down as a rule."""
    expected = conv("conv1", 64, 3, 7, 7) | norm("bn1", 64) | linear("fc", 1000, 2048)
    before = 64
    for stage, (blocks, middle) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            key, filters = f"layer{stage}.{block}", 4 * middle
            expected |= conv(f"{key}.conv1", middle, before, 1, 1) | norm(f"{key}.bn1", middle)
            expected |= conv(f"{key}.conv2", middle, middle, 3, 3) | norm(f"{key}.bn2", middle)
            expected |= conv(f"{key}.conv3", filters, middle, 1, 1) | norm(f"{key}.bn3", filters)
            if block == 0:
                expected |= conv(f"{key}.downsample.0", filters, before, 1, 1)
                expected |= norm(f"{key}.downsample.1", filters)
            before = filters
    return expected


def torchvision_mobilenet_v2():
    """State dict of torchvision's mobilenet_v2, written down as a rule."""

    def unit(key, filters, channels, k):
        return conv(f"{key}.0", filters, channels, k, k) | norm(f"{key}.1", filters)

    expected = unit("features.0", 32, 3, 3) | unit("features.18", 1280, 320, 1)
    before, expansion = 32, 1
    rows = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))
    for index, filters in enumerate((m for m, n in rows for _ in range(n)), start=1):
        key, middle = f"features.{index}.conv", expansion * before
        parts = [] if expansion == 1 else [unit(f"{key}.0", middle, before, 1)]
        parts.append(unit(f"{key}.{len(parts)}", middle, 1, 3))
        parts.append(conv(f"{key}.{len(parts)}", filters, middle, 1, 1))
        parts.append(norm(f"{key}.{len(parts)}", filters))
        for part in parts:
            expected |= part
        before, expansion = filters, 6
    return expected | linear("classifier.1", 1000, 1280)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("r2plus1d", 400, torchvision_r2plus1d(R2PLUS1D_18)),
        ("r2plus1d_34", 400, torchvision_r2plus1d(R2PLUS1D_34)),
        ("s3d", 400, torchvision_s3d()),
        ("r3d", 400, torchvision_resnet((3, 3, 3, 3))),
        ("mc3", 400, torchvision_resnet((3, 1, 1, 1))),
        ("vgg16", 1000, torchvision_vgg16()),
        ("resnet50", 1000, torchvision_resnet50()),
        ("mobilenet_v2", 1000, torchvision_mobilenet_v2()),
    ],
)
def test_state_dict_is_torchvisions(name, classes, expected):
    assert shapes(on_meta(name, num_classes=classes)) == expected


def test_torchvisions_parameter_count_at_400_classes():
    model = on_meta("r2plus1d", num_classes=400)
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_505_325


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].frames is not None])
def test_reduced_models_take_small_clips(name):
    model = build_model(name, num_classes=7, width=0.0625, frames=16, size=32)
    assert not model.training
    assert model(torch.randn(2, 3, 16, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "behind", "inside"),
    [
        ("r2plus1d", 1e-5, 1e-5),
        ("r2plus1d_34", 1e-3, 1e-3),
        ("r2plus1d_34_mmaction2", 1e-3, 1e-5),
    ],
)
def test_norms_have_the_eps_they_were_trained_with(name, behind, inside):
    """eps is in no state dict: behind a pair of convolutions, and inside it."""
    model = on_meta(name)
    block = model.layer2[0]
    assert {block.conv1[1].eps, block.conv2[1].eps, block.downsample[1].eps} == {behind}
    assert {block.conv1[0][1].eps, block.conv2[0][1].eps, model.stem[1].eps} == {inside}
    assert model.stem[4].eps == behind


def test_s3d_pools_globally_at_the_papers_clip():
    """The window is exactly as large as the features, so the classifier sees one position."""
    spec = MODELS["s3d"]
    layers = {layer.name: layer for layer in count_macs(on_meta("s3d"), spec.input_shape)}
    assert layers["classifier.1"].positions == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "c4d"}, "c3d, r2plus1d, s3d"),
        ({"name": "c3d", "num_classes": 0}, "got 0"),
        ({"name": "c3d", "width": 0.0}, "got 0"),
        ({"name": "c3d", "width": float("nan")}, "got nan"),
        ({"name": "c3d", "frames": 8}, "at least 16 frames"),
        ({"name": "c3d", "size": 8}, "16x16"),
        ({"name": "vgg16", "size": 31}, "at least 32x32, got 31x31"),
        ({"name": "resnet50", "frames": 16}, "16 frames: ResNet-50 takes pictures"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        build_model(**arguments)


def test_macs_of_a_layer_by_hand():
    model = torch.nn.Sequential(
        torch.nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), groups=2),
        torch.nn.AdaptiveAvgPool3d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 5),
    )
    with torch.no_grad():
        model[0].weight[0] = 0
    conv_layer, linear = count_macs(model, (2, 4, 3, 8, 8))
    positions = 2 * 3 * 4 * 4
    assert (conv_layer.dense, conv_layer.kept) == (6 * 2 * 9 * positions, 5 * 2 * 9 * positions)
    assert linear.dense == 2 * 5 * 6
    assert conv_layer.density == 5 / 6


def test_counting_leaves_the_model_alone():
    model = build_model("r2plus1d", num_classes=3, width=0.0625).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, (1, 3, 16, 32, 32))
    assert model.training
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, before[name])


def test_an_input_the_model_does_not_take_is_refused():
    with pytest.raises(InputError, match=r"\[1, 4, 16, 32, 32\]"):
        count_macs(on_meta("r2plus1d"), (1, 4, 16, 32, 32))


def test_a_layer_that_cannot_be_counted_is_refused():
    model = torch.nn.Sequential(torch.nn.Bilinear(2, 3, 4))
    clips = (torch.ones(1, 2), torch.ones(1, 3))
    model.forward = lambda a, b: model[0](a, b)
    with pytest.raises(InputError, match=r"'0'.*Bilinear"):
        count_macs(model, example_inputs=clips)


def test_transposed_convolutions_are_counted_by_what_they_read():
    model = torch.nn.Sequential(torch.nn.ConvTranspose3d(2, 6, 2, stride=2, groups=2))
    (layer,) = count_macs(model, (3, 2, 4, 5, 6))
    assert (layer.shape, layer.positions) == ((2, 3, 2, 2, 2), 3 * 4 * 5 * 6)
    assert layer.dense == 2 * 3 * 8 * 3 * 4 * 5 * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 2 * 10**9}, "8[0-9]{12} parameters; at most"),
        ({"frames": 10**6}, "1000000 frames of 112x112: .* pixels; at most"),
        ({"size": 10**5}, "16 frames of 100000x100000"),
        ({"size": 2000}, "parameters; at most"),
    ],
)
def test_models_beyond_any_memory_are_refused_before_it_is_asked_for(arguments, message):
    with pytest.raises(InputError, match=message):
        build_model("c3d", **arguments)
