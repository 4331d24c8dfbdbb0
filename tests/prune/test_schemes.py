"""The schemes against the paper's definitions, written as plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.schemes import SCHEMES, Scheme
from topi_sparse.kernel_group import KernelGroup


@st.composite
def cases(draw):
    """(scheme, groups, weight): remainders, grouped convolutions, Conv2d and Conv3d."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    filters = groups * draw(st.integers(1, 9))
    channels = draw(st.integers(1, 9))
    kernel = draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    group = KernelGroup(g_m=draw(st.integers(1, 6)), g_n=draw(st.integers(1, 6)))
    scheme = Scheme(name=draw(st.sampled_from(SCHEMES)), group=group)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return scheme, groups, torch.randn(filters, channels, *kernel, generator=generator)


def unit_of(scheme, groups, weight, index):
    """Which unit the weight at ``index`` belongs to, by the paper's definitions."""
    m, n, *location = index
    per_group = weight.shape[0] // groups
    conv_group, row = divmod(m, per_group)
    block = (conv_group, row // scheme.group.g_m, n // scheme.group.g_n)
    return {"filter": (m,), "vanilla": block, "kgs": (*block, *location)}[scheme.name]


def members(scheme, groups, weight):
    """Units in row-major order of their first weight, each a list of indices."""
    units = {}
    for index in map(tuple, torch.ones(weight.shape).nonzero().tolist()):
        units.setdefault(unit_of(scheme, groups, weight, index), []).append(index)
    return [units[key] for key in sorted(units)]


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([1, 2]))
def test_norms_and_sizes_follow_the_definition(case, order):
    scheme, groups, weight = case
    units = members(scheme, groups, weight)
    values = [torch.tensor([float(weight[i]) for i in unit]).double() for unit in units]
    expected = torch.stack([value.abs().pow(order).sum() ** (1 / order) for value in values])
    sizes = torch.tensor([len(unit) for unit in units])
    torch.testing.assert_close(scheme.norms(weight, order=order, groups=groups).flatten(), expected)
    assert torch.equal(scheme.sizes(weight.shape, groups=groups).flatten(), sizes)
    torch.testing.assert_close(
        scheme.mean_norms(weight, order=order, groups=groups).flatten(),
        expected / sizes ** (1 / order),
    )


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_masks_follow_the_definition(case, random):
    scheme, groups, weight = case
    grid = scheme.sizes(weight.shape, groups=groups).shape
    units = members(scheme, groups, weight)
    keep = [random.random() < 0.5 for _ in units]
    mask = scheme.mask(torch.tensor(keep).reshape(grid), weight.shape, groups=groups)
    assert mask.shape == weight.shape
    assert mask.dtype == torch.bool
    for kept, unit in zip(keep, units, strict=True):
        assert all(bool(mask[index]) is kept for index in unit)


def test_remainder_groups_are_counted_up():
    """45 filters x 3 channels in 16x4: P = ceil(45/16), Q = ceil(3/4)."""
    scheme = Scheme(name="kgs", group=KernelGroup(g_m=16, g_n=4))
    sizes = scheme.sizes((45, 3, 1, 7, 7))
    assert sizes.shape == (1, 3, 1, 1, 7, 7)
    assert sizes[0, :, 0, 0, 0, 0].tolist() == [48, 48, 39]


def test_vanilla_is_kgs_with_all_locations_alike():
    """The paper's section 3: vanilla is a special case of KGS."""
    group = KernelGroup(g_m=4, g_n=2)
    vanilla, kgs = (Scheme(name=name, group=group) for name in ("vanilla", "kgs"))
    shape = (10, 5, 2, 3, 3)
    keep = torch.rand(vanilla.sizes(shape).shape) < 0.5
    spread = keep.expand(kgs.sizes(shape).shape)
    assert torch.equal(vanilla.mask(keep, shape), kgs.mask(spread, shape))


def test_mean_norms_do_not_favour_large_units():
    scheme = Scheme(name="kgs", group=KernelGroup(g_m=4, g_n=4))
    weight = torch.full((6, 7, 1, 3, 3), -0.25)
    for order in (1, 2):
        means = scheme.mean_norms(weight, order=order)
        torch.testing.assert_close(means, torch.full_like(means, 0.25))
    assert scheme.norms(weight).unique().numel() > 1


def test_a_large_filter_is_summed_exactly_enough():
    """10^5 equal weights: a float32 running sum would be off in the fifth digit."""
    weight = torch.full((1, 4096, 3, 3, 3), 0.1)
    exact = (0.1**2 * weight.numel()) ** 0.5
    scheme = Scheme(name="filter", group=KernelGroup(g_m=1, g_n=1))
    assert float(scheme.norms(weight)) == pytest.approx(exact, rel=1e-7)


def test_what_is_not_a_scheme_or_a_weight_is_refused():
    group = KernelGroup(g_m=4, g_n=4)
    with pytest.raises(InputError, match="filter, vanilla, kgs"):
        Scheme(name="irregular", group=group)
    scheme = Scheme(name="kgs", group=group)
    with pytest.raises(InputError, match=r"2 to 5 axes, got \[4\]"):
        scheme.norms(torch.ones(4))
    with pytest.raises(InputError, match="1 or 2, got 3"):
        scheme.norms(torch.ones(4, 4, 3, 3), order=3)
    with pytest.raises(InputError, match=r"5 filters .* 2 groups"):
        scheme.norms(torch.ones(5, 4, 3, 3), groups=2)
    with pytest.raises(InputError, match=r"\[1, 1, 1, 3, 3\]"):
        scheme.mask(torch.ones(1, 1, 1, dtype=torch.bool), (4, 4, 3, 3))
