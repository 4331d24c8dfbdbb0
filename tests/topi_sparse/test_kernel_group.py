import pytest

from topi_sparse.kernel_group import KernelGroup


@pytest.mark.parametrize("text", ["16x4", "1x1", "4x32"])
def test_parse_and_str_are_inverse(text):
    assert str(KernelGroup.parse(text)) == text


def test_filters_come_first():
    assert KernelGroup.parse("16x4") == KernelGroup(g_m=16, g_n=4)


@pytest.mark.parametrize(
    "text", ["", "16", "16x", "x4", "16X4", "16x4x3", "-1x4", "0x4", "4x0", "a"]
)
def test_bad_text_is_refused_with_its_value(text):
    with pytest.raises(ValueError, match=r"16x4|at least 1"):
        KernelGroup.parse(text)


@pytest.mark.parametrize("size", [4.0, "4", True, None])
def test_sizes_are_integers(size):
    with pytest.raises(TypeError, match="g_m"):
        KernelGroup(g_m=size, g_n=4)


def test_arguments_cannot_be_swapped_by_position():
    with pytest.raises(TypeError):
        KernelGroup(16, 4)
