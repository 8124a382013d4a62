"""Make tests/golden/io.safetensors, io-sharded/, and the folders tests/io/accept and tests/io/refuse.

The first two are written by the safetensors library itself, the hostile ones by hand (links.h5 by h5py).
usage: python make_io.py   (in any folder)
"""
import json
import platform
import struct
from pathlib import Path

import h5py
import numpy
import safetensors
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parent
IO = GOLDEN.parent / "io"
VERSIONS = {
    "made_by": "make_io.py",
    "safetensors": safetensors.__version__,
    "torch": torch.__version__,
    "python": platform.python_version(),
}


def golden():
    """Each tensor `x` has a twin `x.f32` that says what reading it as fp32 must give."""
    torch.manual_seed(1)
    special = torch.tensor([0.0, -0.0, 1.0, -1.5, 65504.0, 6.1e-5, 6e-8, -5.96e-8, 3.0e-7, float("inf"),
                            float("-inf")])
    values = torch.cat([special, torch.randn(64) * torch.logspace(-6, 4, 64)])
    tensors = {
        "f32": values.reshape(3, 25),
        "f16": values.half().reshape(5, 15),
        "bf16": values.bfloat16().reshape(15, 5),
        "f64": (values.double() * (1 + 1e-12)),
        "i64": torch.tensor([[0, -1, 2**24 + 1], [2**40, -(2**62), 7]]),
        "i32": torch.tensor([0, -1, 2**31 - 1], dtype=torch.int32),
        "i16": torch.tensor([-32768, 32767], dtype=torch.int16),
        "i8": torch.tensor([-128, 127], dtype=torch.int8),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    twins = {f"{name}.f32": t.float().clone().contiguous() for name, t in tensors.items()}
    save_file({**tensors, **twins}, GOLDEN / "io.safetensors", metadata=VERSIONS)


def sharded():
    folder = GOLDEN / "io-sharded"
    folder.mkdir(exist_ok=True)
    first = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    second = {"c": torch.full((2, 2), 3.0, dtype=torch.float16)}
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file(first, folder / names[0], metadata={"format": "pt", **VERSIONS})
    save_file(second, folder / names[1], metadata={"format": "pt", **VERSIONS})
    index = {"metadata": {"total_size": 40},
             "weight_map": {"a": names[0], "b": names[0], "c": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def hostile():
    accept = {
        "nothing": raw({}),
        "metadata-only": raw({"__metadata__": {"k": "v"}}),
        "padded": raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   ', bytes(4)),
        "scalar": raw({"a": tensor(0, 4, [])}, bytes(4)),
        "no-elements": raw({"a": tensor(0, 0, [0, 7]), "b": tensor(0, 4, [1]), "c": tensor(4, 4, [0])},
                           bytes(4)),
        "out-of-order": raw({"b": tensor(4, 8, [1]), "a": tensor(0, 4, [1])}, bytes(8)),
    }
    refuse = {
        "no-bytes": b"",
        "seven-bytes": bytes(7),
        "header-length-0": raw(b"", length=0),
        "header-length-beyond-file": raw({}, length=3),
        "header-length-2-to-63": raw({}, length=2**63),
        "header-length-2-to-64-less-1": raw({}, length=2**64 - 1),
        "header-length-above-cap": raw({}, length=100000001),
        "header-is-text": b"version https://git-lfs.github.com/spec/v1\n",
        "header-is-no-json": raw(b"{'a': 1}"),
        "header-is-a-list": raw(b"[1, 2]"),
        "header-cut": raw(b'{"a":{"dtype":"F32","shape":[1],"da'),
        "duplicate-name": raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                              b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
        "entry-is-no-map": raw({"a": 5}),
        "no-dtype": raw({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        "unknown-dtype": raw({"a": tensor(0, 4, [1], "F33")}, bytes(4)),
        "no-shape": raw({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
        "nine-dimensions": raw({"a": tensor(0, 4, [1] * 9)}, bytes(4)),
        "negative-size": raw({"a": tensor(0, 4, [-1])}, bytes(4)),
        "fractional-size": raw({"a": tensor(0, 4, [1.5])}, bytes(4)),
        "shape-overflow": raw({"a": tensor(0, 4, [2**62, 4])}, bytes(4)),
        "shape-bytes-overflow": raw({"a": tensor(0, 4, [2**62])}, bytes(4)),
        "shape-2-to-63": raw({"a": tensor(0, 4, [2**63])}, bytes(4)),
        "shape-not-its-bytes": raw({"a": tensor(0, 8, [1])}, bytes(8)),
        "no-offsets": raw({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        "three-offsets": raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, bytes(8)),
        "negative-offset": raw({"a": tensor(-4, 0, [1])}, bytes(4)),
        "offsets-swapped": raw({"a": tensor(4, 0, [1])}, bytes(4)),
        "offset-2-to-63-less-1": raw({"a": tensor(2**63 - 5, 2**63 - 1, [1])}, bytes(4)),
        "data-truncated": raw({"a": tensor(0, 4, [1])}, bytes(3)),
        "overlap": raw({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
        "same-bytes-twice": raw({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, bytes(4)),
        "hole": raw({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12)),
        "hole-in-front": raw({"a": tensor(4, 8, [1])}, bytes(8)),
        "bytes-behind": raw({"a": tensor(0, 4, [1])}, bytes(8)),
        "bytes-of-nothing": raw({}, bytes(4)),
        "metadata-is-no-map": raw({"__metadata__": "text"}),
        "metadata-is-no-text": raw({"__metadata__": {"k": 1}}),
        "name-with-zero-byte": raw(b'{"a\\u0000":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                                   bytes(4)),
    }
    for folder, files in ((IO / "accept", accept), (IO / "refuse", refuse)):
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.safetensors"):
            old.unlink()
        for name, content in files.items():
            (folder / f"{name}.safetensors").write_bytes(content)


def hostile_h5():
    """What leads out of a file, or only past its own links, beside one dataset that is in it."""
    with h5py.File(IO / "refuse" / "links.h5", "w", libver=("v110", "v110")) as f:
        f["inside"] = numpy.arange(4, dtype="<f4")
        f["out"] = h5py.ExternalLink("target.h5", "ids")
        f["soft"] = h5py.SoftLink("/inside")
        f["below"] = h5py.SoftLink("/")
        f.create_dataset("outside", (4,), "<f4", external=[("raw", 0, 16)])
        layout = h5py.VirtualLayout((4,), "<f4")
        layout[:] = h5py.VirtualSource("target.h5", "ids", (4,))
        f.create_virtual_dataset("virtual", layout)


if __name__ == "__main__":
    golden()
    sharded()
    hostile()
    hostile_h5()
