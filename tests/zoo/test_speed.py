"""The files that the zoo's speed is measured with follow the code that makes them."""

from tests.zoo.speed import _definitions, digest


def test_the_files_follow_what_defines_the_models():
    names = _definitions()
    assert {"tests/zoo/published.py", "tests/zoo/video.py", "tests/zoo/pruned.py"} <= {*names}
    assert len(digest("x3d_s", code=names)) == 64
