"""Checkpoint files: what was written comes back or is refused by name, and damaged files are."""

import json
import math
import random
import struct

import pytest
import torch
from safetensors.torch import save_file

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.checkpoint import read_checkpoint, write_checkpoint


def same(found, wanted):
    """Equal keys, of equal types, in order, and equal values of equal types."""
    if isinstance(wanted, dict):
        keys = [(type(k), k) for k in found] == [(type(k), k) for k in wanted]
        return keys and all(same(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    if isinstance(wanted, (list, tuple)):
        alike = type(found) is type(wanted) and len(found) == len(wanted)
        return alike and all(map(same, found, wanted))
    return type(found) is type(wanted) and (found == wanted or found != found)


ONE, TWO, THREE = (torch.full((2,), float(i)) for i in (1, 2, 3))
TREES = {
    "a number and its text": {1: ONE, "1": TWO, 1.5: THREE, "1.5": 4},
    "a path and a key": {"a": {"b": ONE}, "a/b": TWO, "a/b'": THREE},
    "a list and a key": {"a": [ONE, TWO], "a/0": THREE},
    "None and its text": {None: ONE, "None": TWO, True: THREE, "True": 4},
    "a slash and nothing": {"": ONE, "/": TWO, "//": {"": THREE}},
    "the name of the header": {"__metadata__": ONE, "format": TWO},
    "other letters": {"\ud800": ONE, "naïve": TWO, "a\0b": THREE, "x\n": "\ud800"},
    "kinds of tensors": {
        "no axis": torch.tensor(2),
        "empty": torch.empty(0, 3),
        "half": ONE.bfloat16(),
        "expanded": torch.ones(1).expand(4),
        "crossed": torch.arange(6).reshape(2, 3).T,
        "one memory": [ONE, ONE],
    },
    "kinds of values": {"x": [(1, ()), [True, None], -0.5, math.nan, math.inf, 10**40, ""]},
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_as_it_was(name, tmp_path):
    write_checkpoint(tmp_path / "c", TREES[name])
    assert same(read_checkpoint(tmp_path / "c"), TREES[name])


def nested(depth):
    tree = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


def round_of_itself():
    tree = {}
    tree["again"] = [tree]
    return tree


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"f": [{"g": print}]}, "f/0/g is a builtin_function"),
        ({(1, 2): 3}, "a key in the checkpoint is a tuple"),
        ({"deep": nested(80)}, "deeper than 64 levels"),
        (round_of_itself(), "deeper than 64 levels, or holds itself"),
        ({"s": torch.eye(3).to_sparse()}, "s is a tensor that is sparse"),
        ({"m": torch.empty(3, device="meta")}, "without values"),
        ({"z": torch.zeros(1, dtype=torch.complex128)}, "z is a tensor of torch.complex128"),
        ({"n": 10**5000}, "n is a number of 16610 bits"),
        ({"long": "x" * (33 << 20)}, "characters of state"),
    ],
)
def test_what_would_not_come_back_is_refused_when_it_is_written(tree, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_checkpoint(tmp_path / "c", tree)
    assert not list(tmp_path.iterdir())


def header_of(path):
    """Length, metadata and all of the bytes of a safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_header(path, header, content):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


@pytest.mark.parametrize(
    "state",
    [
        *('"text"', "[]", "3", "null", "{}", '{"dict": 3}', '{"dict": [1]}', '{"list": []}'),
        *('{"dict": [[[1], 2]]}', '{"dict": [["a", {"tensor": "none"}]]}', '{"dict": [["a"]]}'),
        *('{"dict": [["a", [1]]]}', '{"dict": [["a", {"tensor": ["t"]}]]}', '{"set": []}', "{"),
        *("[" * 100_000, '{"list": [' * 100_000, "[" * 100_000 + "]" * 100_000),
        '{"dict": [["a", ' * 200 + "1" + "]]}" * 200,
    ],
)
def test_a_state_of_something_else_is_damaged(state, tmp_path):
    save_file({"t": ONE}, tmp_path / "c", metadata={"rt3d_pruning": state})
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(tmp_path / "c")


def test_every_bit_counts(tmp_path):
    """A file with a flipped bit is refused, wherever that is."""
    tree = {"model": {"w": torch.randn(20)}, "epoch": 3, "rows": [{"loss": 0.5}]}
    write_checkpoint(tmp_path / "c", tree)
    whole = (tmp_path / "c").read_bytes()
    header = struct.unpack("<Q", whole[:8])[0] + 8
    generator = random.Random(0)
    places = [*range(header, len(whole), 3), *generator.sample(range(header), 60)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        (tmp_path / "c").write_bytes(damaged)
        try:
            found = read_checkpoint(tmp_path / "c")
        except InputError:
            continue
        # In the header's spaces, or the name of the checksum: the content is what it was.
        assert place < header
        assert same(found, tree)


def test_files_cut_short_and_garbage_are_refused(tmp_path):
    write_checkpoint(tmp_path / "c", TREES["kinds of tensors"])
    whole = (tmp_path / "c").read_bytes()
    generator = random.Random(0)
    texts = [whole[: generator.randrange(len(whole))] for _ in range(40)]
    texts += [generator.randbytes(generator.randrange(300)) for _ in range(40)]
    texts += [struct.pack("<Q", 1 << 60), struct.pack("<Q", 8) + b"[[[[[[[["]
    for text in texts:
        (tmp_path / "c").write_bytes(text)
        with pytest.raises(InputError, match=r"is not a checkpoint|damaged"):
            read_checkpoint(tmp_path / "c")
    with pytest.raises(InputError, match="is not a checkpoint"):
        read_checkpoint(tmp_path)


def test_a_file_of_before_the_checksum_is_read(tmp_path):
    tree = {"model": {"w": ONE}, "masks": None, "extra": {"pair": (1, 2)}}
    write_checkpoint(tmp_path / "c", tree)
    header, content = header_of(tmp_path / "c")
    del header["__metadata__"]["sha256"]
    write_header(tmp_path / "c", header, content)
    assert same(read_checkpoint(tmp_path / "c"), tree)
    header["__metadata__"]["sha256"] = "0" * 64
    write_header(tmp_path / "c", header, content)
    with pytest.raises(InputError, match="its checksum is not that of its content"):
        read_checkpoint(tmp_path / "c")
