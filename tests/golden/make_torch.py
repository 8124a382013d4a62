"""Make tests/golden/torch, tests/golden/npy, and the archives of tests/io/accept and tests/io/refuse.

The goldens are written by PyTorch and NumPy themselves, most of the hostile files by hand. Every
archive NAME.pt of tests/golden/torch has the tensors of values.safetensors beside it, under the same names.
usage: python make_torch.py   (in any folder)
"""
import argparse
import io
import json
import pathlib
import pickle
import platform
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import numpy
import safetensors
import torch
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).resolve().parent
IO = GOLDEN.parent / "io"
VERSIONS = {
    "made_by": "make_torch.py",
    "torch": torch.__version__,
    "numpy": numpy.__version__,
    "safetensors": safetensors.__version__,
    "python": platform.python_version(),
}
DTYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
          "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8}


def fresh(folder, pattern="*"):
    folder.mkdir(exist_ok=True)
    for old in folder.glob(pattern):
        old.unlink()
    return folder


# ---- goldens -------------------------------------------------------------------------------------


def weights():
    """Every type of element, and every way that a tensor may lie in its storage."""
    torch.manual_seed(1)
    state = OrderedDict()
    for name, dtype in DTYPES.items():
        state[f"type.{name}"] = (torch.randn(3, 5) * 20).to(dtype)
    state["type.bool"] = torch.tensor([True, False, True])
    base = torch.arange(60, dtype=torch.float32)
    state["layout.whole"] = base
    state["layout.offset"] = base[7:19]
    state["layout.shared"] = base.view(5, 12)
    state["layout.transposed"] = base.view(5, 12).t()
    state["layout.every_third"] = base[1::3]
    state["layout.block"] = base.view(3, 4, 5)[1:, 1:3, ::2]
    state["layout.expanded"] = base[3:6].view(3, 1).expand(3, 4)
    state["layout.channels_last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state["layout.permuted_i64"] = torch.arange(24).view(2, 3, 4).permute(2, 0, 1)
    state["layout.one_row"] = torch.randn(4, 6)[:, 2:3].t()[:, :1]
    state["layout.scalar"] = torch.tensor(2.5)
    state["layout.scalar_offset"] = base[41]
    state["layout.empty"] = torch.zeros(0, 4)
    state["layout.empty_middle"] = torch.zeros(3, 0, 2)
    state["layout.eight"] = torch.arange(2.0).view(1, 1, 2, 1, 1, 1, 1, 1)
    state["parameter"] = torch.nn.Parameter(torch.randn(2, 2))
    state["parameter_with_state"] = torch.nn.Parameter(torch.randn(2))
    state["parameter_with_state"].note = "kept by pickle, not by us"
    return state


def checkpoint():
    """A training checkpoint: weights among everything else that people put beside them."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "step": 2**40, "large": 2**90, "negative": -7, "loss": 0.25, "best": None, "done": False,
        "name": "tiny \u00e9", "bytes": b"\x00\x01", "tags": {"a", "b"}, "frozen": frozenset([1]),
        "args": argparse.Namespace(lr=1e-3, sizes=[1, 2], where=pathlib.PurePosixPath("x").name),
        "accuracy": numpy.float64(0.5), "history": numpy.arange(3.0), "counted": numpy.int64(4),
        "size": torch.Size([2, 3]), "dtype": torch.float16, "device": torch.device("cpu"),
        "state_dict": weights(), "linear": layer.state_dict(), "optimizer": optimizer.state_dict(),
        "list": [torch.ones(2), (torch.zeros(1), 5)], 12: {"k": torch.full((2,), 12.0)},
    }


def flatten(value, name, out):
    items = None
    if isinstance(value, torch.Tensor):
        out[name] = value.detach().clone().contiguous()
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        items = enumerate(value)
    for key, item in items or ():
        flatten(item, f"{name}.{key}" if name else str(key), out)
    return out


def goldens():
    folder = fresh(GOLDEN / "torch")
    values = checkpoint()
    save_file(flatten(values, "", {}), folder / "values.safetensors", metadata=VERSIONS)
    torch.save(values, folder / "zip.pt")
    torch.save(values, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(values, folder / "protocol5.pt", pickle_protocol=5)
    small = OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.arange(4).half().view(2, 2).t())
    torch.save(small, folder / "small.pth")
    torch.save(small, folder / "small_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(small, folder / "small_legacy5.pth", pickle_protocol=5, _use_new_zipfile_serialization=False)
    torch.save(torch.arange(3.0), folder / "tensor.pth")
    sharded = fresh(GOLDEN / "torch-sharded")
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    torch.save({"a": torch.arange(6.0).view(2, 3)}, sharded / names[0])
    torch.save({"b": torch.ones(2, dtype=torch.bfloat16)}, sharded / names[1], _use_new_zipfile_serialization=False)
    index = {"metadata": {"total_size": 28}, "weight_map": {"a": names[0], "b": names[1]}}
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


def npy():
    folder = fresh(GOLDEN / "npy")
    rng = numpy.random.default_rng(1)
    base = rng.normal(size=(3, 5)) * 10
    arrays = {name: base.astype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1")}
    arrays |= {"u1": numpy.abs(base).astype("u1"), "b1": base > 0, "scalar": numpy.float32(2.5),
               "empty": numpy.zeros((0, 4), "f4"), "vector": base[0].astype("f4"),
               "fortran": numpy.asfortranarray(base.astype("f4")),
               "fortran_f2": numpy.asfortranarray(rng.normal(size=(2, 3, 4)).astype("f2")),
               "fortran_empty": numpy.asfortranarray(numpy.zeros((2, 0, 3), "f8"))}
    for name, array in arrays.items():
        numpy.save(folder / f"{name}.npy", array)
    for major in (2, 3):
        with open(folder / f"version{major}.npy", "wb") as f:
            numpy.lib.format.write_array(f, base.astype("f4"), version=(major, 0))
        arrays[f"version{major}"] = base.astype("f4")
    save_file({k: torch.from_numpy(numpy.array(v, order="C").astype("f4")) for k, v in arrays.items()},
              folder / "values.safetensors", metadata=VERSIONS)


# ---- by hand: pickles ----------------------------------------------------------------------------


def text(s):
    b = s.encode()
    return b"X" + struct.pack("<I", len(b)) + b


def number(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    return b"\x8a\x09" + n.to_bytes(9, "little", signed=True) if n >= 2**63 else b"\x8a\x08" + struct.pack("<q", n)


def numbers(values):
    return b"(" + b"".join(number(v) for v in values) + b"t"


def named(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def storage(n, key="0", kind="FloatStorage"):
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + number(n) + b"tQ"


def tensor(shape=(2,), stride=(1,), offset=0, n=4, key="0", rest=b"\x89}"):
    return (named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(n, key) + number(offset) + numbers(shape) +
            numbers(stride) + rest + b"tR")


def table(**items):
    return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def whole(body):
    return b"\x80\x02" + body + b"."


# ---- by hand: archives ---------------------------------------------------------------------------


def archive(body, storages=None, entries=(), method=zipfile.ZIP_STORED, order=b"little", name="archive/data.pkl"):
    out = io.BytesIO()
    storages = {"0": bytes(16)} if storages is None else storages
    with zipfile.ZipFile(out, "w") as z:
        stamp = (1980, 1, 1, 0, 0, 0)
        z.writestr(zipfile.ZipInfo(name, stamp), body, method)
        for key, content in storages.items():
            z.writestr(zipfile.ZipInfo(f"archive/data/{key}", stamp), content)
        z.writestr(zipfile.ZipInfo("archive/byteorder", stamp), order)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for key, content in entries:
                z.writestr(zipfile.ZipInfo(key, stamp), content)
    return out.getvalue()


def model(body, **settings):
    return archive(whole(body), **settings)


def patched(content, mark, at, new):
    """`content` with the bytes `new` at `at` behind the first `mark`."""
    i = content.index(mark) + at
    return content[:i] + new + content[i + len(new):]


def legacy(body, keys=("0",), counts=(4,), content=bytes(16), protocol=1001, little=b"\x88", tail=b""):
    out = whole(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19") + whole(b"\x8a\x02" + struct.pack("<h", protocol))
    out += whole(table(protocol_version=number(1), little_endian=little)) + whole(body)
    out += whole(b"](" + b"".join(text(k) for k in keys) + b"e")
    for count in counts:
        out += struct.pack("<q", count) + content
    return out + tail


def real(value, **settings):
    out = io.BytesIO()
    torch.save(value, out, **settings)
    return out.getvalue()


class Runs:
    def __reduce__(self):
        import os
        return os.system, ("false",)


def program():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x + x

    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Twice()), out)
    return out.getvalue()


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        t.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return out.getvalue()[:1024]


def npz():
    out = io.BytesIO()
    numpy.savez(out, a=numpy.arange(3.0))
    return out.getvalue()


def laughs(depth):
    """Lists that hold the list before twice: 2^depth ways to the tensor-free bottom."""
    return b"]\x94" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(depth))


def nested(depth):
    return b"]" * depth + tensor() + b"a" * depth


def hostile_pickles():
    t = tensor()
    return {
        "asks-os-system": real({"a": Runs()}),
        "asks-os-system-legacy": real({"a": Runs()}, _use_new_zipfile_serialization=False),
        "asks-eval": model(named("builtins", "eval") + text("1") + b"\x85R"),
        "asks-eval-on-stack": model(b"\x8c\x08builtins\x8c\x04eval\x93" + text("1") + b"\x85R"),
        "asks-by-inst": model(b"(" + text("false") + b"ios\nsystem\n"),
        "asks-a-module": real(torch.nn.Linear(1, 1)),
        "asks-unprintable": model(named("\x1b[31m", "x\x07")),
        "complex": real({"a": torch.ones(2, dtype=torch.complex64)}),
        "sparse": real({"a": torch.ones(2).to_sparse()}),
        "negated": real({"a": torch._neg_view(torch.ones(2))}),
        "meta-device": real({"a": torch.ones(2, device="meta")}),
        "no-stop": archive(b"\x80\x02" + table(a=t)),
        "stops-at-once": model(b""),
        "empty-pickle": archive(b""),
        "protocol-6": archive(b"\x80\x06N."),
        "unknown-opcode": model(b"\xff"),
        "text-cut": model(b"X\xff\xff\xff\x7fabc"),
        "text-of-2-to-63": model(b"\x8d" + b"\xff" * 8 + b"abc"),
        "line-without-end": model(b"ctorch"),
        "number-in-letters": model(b"Iseven\n"),
        "stack-empty": model(b"0"),
        "below-the-mark": model(b"N(0a"),
        "no-mark": model(b"Nt"),
        "items-into-a-text": model(text("a") + b"Na"),
        "items-into-a-tuple": model(b")(NNe"),
        "odd-map": model(b"}(Nu"),
        "memo-has-nothing": model(b"h\x05"),
        "memo-far": model(b"Nr\xff\xff\xff\x7f"),
        "memo-of-2-to-32": model(b"Nr\xff\xff\xff\xff"),
        "memo-negative": model(b"Np-1\n"),
        "calls-a-text": model(text("a") + b")R"),
        "calls-a-storage": model(named("torch", "FloatStorage") + b")R"),
        "calls-without-arguments": model(named("torch._utils", "_rebuild_parameter") + b")R"),
        "calls-a-call-of-itself": model(
            named("torch._tensor", "_rebuild_from_type_v2") + b"(" +
            named("torch._tensor", "_rebuild_from_type_v2") + named("torch", "Tensor") + b")NtR"),
        "ordered-dict-of-numbers": model(named("collections", "OrderedDict") + b"](K\x01K\x02e\x85R"),
        "state-of-a-tuple": model(b")Nb"),
        "refers-to-a-module": model(b"(" + text("module") + b"NNtQ"),
        "storage-of-no-type": model(b"(" + text("storage") + named("torch", "float32") + text("0") + text("cpu") +
                                    b"K\x04tQ"),
        "storage-of-negative-size": model(storage(-1)),
        "view-outside-storage": model(b"(" + text("storage") + named("torch", "FloatStorage") + text("0") +
                                      text("cpu") + b"K\x04(" + text("v") + b"K\x02K\x03ttQ"),
        "list-in-itself": model(b"]q\x00h\x00a"),
        "map-in-itself": model(b"}q\x00" + text("a") + b"h\x00s"),
        "lists-of-lists": model(laughs(24)),
        "nested-deep": model(nested(80)),
        "two-of-one-name": model(table(**{"a": table(b=t), "a.b": t})),
        "name-with-zero-byte": model(table(**{"a\0b": t})),
        "name-too-long": model(table(**{"a" * 1024: t})),
    }


def hostile_tensors():
    def one(**settings):
        return model(table(a=tensor(**settings)))

    expanded = (2**20, 2**10)
    return {
        "shape-outside": one(shape=(5,)),
        "offset-outside": one(offset=3),
        "offset-negative": one(offset=-1),
        "stride-outside": one(shape=(2, 2), stride=(3, 1)),
        "stride-negative": one(stride=(-1,), offset=1),
        "stride-of-2-to-62": one(shape=(3,), stride=(2**62,)),
        "size-negative": one(shape=(-1,)),
        "size-of-2-to-63": one(shape=(2**63,)),
        "shape-overflow": one(shape=(2**40, 2**40), stride=(0, 0)),
        "shape-bytes-overflow": one(shape=(2**62,), stride=(0,)),
        "expanded-to-gigabytes": one(shape=expanded, stride=(0, 0)),
        "expanded-many-times": model(table(**{f"t{i}": tensor((2**16,), (0,)) for i in range(40)})),
        "nine-dimensions": one(shape=(1,) * 9, stride=(1,) * 9),
        "sizes-without-strides": one(shape=(1, 1), stride=(1,)),
        "shape-of-texts": model(table(a=named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(4) + b"K\x00(" +
                                      text("2") + b"t" + numbers((1,)) + b"\x89}tR")),
        "three-arguments": model(table(a=named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(4) +
                                       b"K\x00)tR")),
        "storage-is-none": model(table(a=named("torch._utils", "_rebuild_tensor_v2") + b"(NK\x00))\x89}tR")),
        "storage-longer-than-said": model(table(a=tensor()), storages={"0": bytes(20)}),
        "storage-shorter-than-said": model(table(a=tensor()), storages={"0": bytes(12)}),
        "storage-missing": model(table(a=tensor(key="1"))),
        "storage-elsewhere": model(table(a=tensor(key="../../x"))),
        "storage-size-overflow": model(table(a=tensor(n=2**62))),
    }


def hostile_archives():
    t = table(a=tensor())
    good = model(t)
    directory, end = good.index(b"PK\1\2"), good.index(b"PK\5\6")
    zip64 = (good[:end] + b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 3, 3, end - directory, directory) +
             b"PK\6\7" + struct.pack("<IQI", 0, end, 1) + good[end:])
    keys = {"content": bytes(16)}
    refuse = {
        "zip-compressed": model(t, method=zipfile.ZIP_DEFLATED),
        "zip-name-twice": model(t, entries=[("archive/data/0", bytes(16))]),
        "zip-two-pickles": model(t, entries=[("other/data.pkl", whole(t))]),
        "zip-no-pickle": archive(whole(t), name="archive/model.pkl"),
        "zip-pickle-at-top": archive(whole(t), name="data.pkl"),
        "zip-of-arrays": npz(),
        "zip-of-nothing": b"PK\5\6" + bytes(18),
        "zip-big-endian": model(t, order=b"big"),
        "zip-program": program(),
        "zip-encrypted": patched(good, b"PK\1\2", 8, b"\1"),
        "zip-entry-outside": patched(good, b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
        "zip-entry-in-directory": patched(good, b"PK\1\2", 42, struct.pack("<I", directory)),
        "zip-entry-too-long": patched(patched(good, b"PK\1\2", 20, b"\xff\xff\xff\x7f" * 2), b"PK\3\4", 6, b"\x08"),
        "zip-two-sizes": patched(good, b"PK\1\2", 24, b"\x01\0\0\0"),
        "zip-size-not-its-header": patched(good, b"PK\3\4", 18, b"\x01\0\0\0"),
        "zip-header-of-another": patched(good, b"archive/data.pkl", 0, b"b"),
        "zip-name-outside": patched(good, b"PK\1\2", 28, b"\xff\xff"),
        "zip-directory-overwritten": patched(good, b"PK\1\2", 0, b"PX"),
        "zip-directory-outside": patched(good, b"PK\5\6", 16, b"\xff\xff\xff\x7f"),
        "zip-directory-too-long": patched(good, b"PK\5\6", 12, b"\xff\xff\xff\x7f"),
        "zip-fewer-entries": patched(good, b"PK\5\6", 8, b"\2\0\2\0"),
        "zip-more-entries": patched(good, b"PK\5\6", 8, b"\4\0\4\0"),
        "zip-65535-entries": patched(good, b"PK\5\6", 8, b"\xff\xff\xff\xff"),
        "zip-second-disk": patched(good, b"PK\5\6", 4, b"\1"),
        "zip-cut": good[:-1],
        "zip-bytes-behind": good + b"\0",
        "zip64-end-outside": patched(zip64, b"PK\6\7", 8, b"\xff" * 8),
        "zip64-directory-outside": patched(zip64, b"PK\6\6", 48, b"\xff" * 8),
        "zip64-entries-of-2-to-64": patched(zip64, b"PK\6\6", 32, b"\xff" * 8),
        "tar": tar(),
        "gzip": b"\x1f\x8b" + bytes(16),
        "web-page": b"<!DOCTYPE html>\n<html>\n",
        "plain-pickle": pickle.dumps({"a": [1, 2, 3]}, 4),
        "map-of-text": b"{\"a\": 1}\n",
        "legacy-protocol": legacy(t, protocol=1002),
        "legacy-big-endian": legacy(t, little=b"\x89"),
        "legacy-no-keys": legacy(t, keys=()),
        "legacy-key-twice": legacy(t, keys=("0", "0"), counts=(4, 4)),
        "legacy-key-of-nothing": legacy(t, keys=("0", "1"), counts=(4, 4)),
        "legacy-key-is-a-number": legacy(t, keys=()).replace(b"](e.", b"](K\x00e."),
        "legacy-no-storages": legacy(t, counts=()),
        "legacy-count-too-large": legacy(t, counts=(5,)),
        "legacy-count-too-small": legacy(t, counts=(3,)),
        "legacy-count-negative": legacy(t, counts=(-1,)),
        "legacy-count-of-2-to-62": legacy(t, counts=(2**62,)),
        "legacy-cut": legacy(t)[:-1],
        "legacy-two-types": legacy(table(a=tensor(), b=storage(4, kind="HalfStorage"))),
        "legacy-keys-are-a-map": legacy(t).replace(b"](X\x01\0\0\x000e.", b"}(X\x01\0\0\x000Nu."),
    }
    view = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04(" + text("v")
    view += b"K\x01K\x02ttQ"
    accept = {
        "small": good,
        "zip64": zip64,
        "nothing": model(b"}", storages={}),
        "no-tensors": model(table(a=number(1)), storages={}),
        "legacy": legacy(t),
        "legacy-bytes-behind": legacy(t, tail=b"\0"),
        "legacy-view": legacy(table(a=named("torch._utils", "_rebuild_tensor") + b"(" + view + b"K\x00K\x02\x85"
                                    b"K\x01\x85tR"), **keys),
        "python2-pairs": model(named("collections", "OrderedDict") + b"](](" + text("a") + tensor() + b"ee\x85R"),
        "python2-texts": model(b"}U\x01a" + tensor() + b"s"),
        "protocol-1-numbers": model(b"}(" + text("a") + tensor().replace(b"\x89}", b"I00\n}") + text("n") +
                                    b"L12345678901L\n" + text("f") + b"F1.5\nu"),
        "untyped-storage": model(table(a=named("torch._utils", "_rebuild_tensor_v3") + b"(" +
                                       storage(16, kind="UntypedStorage") + b"K\x00" + numbers((2,)) + numbers((1,)) +
                                       b"\x89}" + named("torch", "float32") + b"tR")),
        "empty-with-odd-stride": model(table(a=tensor((0, 3), (2**40, 2**62)))),
        "one-with-odd-stride": model(table(a=tensor((1, 2), (2**62, 1)))),
        "keys-of-all-kinds": model(b"}(K\x07" + tensor() + b"N" + tensor() + text("") + tensor() + b"u"),
    }
    return accept, refuse


def hostile_npy():
    def raw(header, data=bytes(8), version=b"\1\0", length=None):
        b = header.encode()
        n = len(b) if length is None else length
        return b"\x93NUMPY" + version + (struct.pack("<H", n) if version[0] == 1 else struct.pack("<I", n)) + b + data

    def head(descr="'<f4'", order="False", shape="(2,)"):
        return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"

    accept = {
        "double-quotes": raw(head().replace("'", '"')),
        "no-spaces": raw("{'shape':(2,),'fortran_order':False,'descr':'<f4'}"),
        "vector-in-fortran-order": raw(head(order="True")),
    }
    refuse = {
        "no-bytes": b"",
        "magic-only": b"\x93NUMPY",
        "another-magic": b"\x93NUMPX" + raw(head())[6:],
        "version-0": raw(head(), version=b"\0\0"),
        "version-4": raw(head(), version=b"\4\0"),
        "header-beyond-file": raw(head(), length=1000),
        "header-of-2-to-32": raw(head(), version=b"\2\0", length=2**32 - 1),
        "header-empty": raw("", b""),
        "header-cut": raw("{'descr': '<f4', 'fortran_order"),
        "header-is-code": raw("__import__('os').system('false')"),
        "key-missing": raw("{'descr': '<f4', 'fortran_order': False}"),
        "key-twice": raw("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"),
        "key-unknown": raw(head().replace("}", "'x': 1}")),
        "objects": raw(head("'|O'")),
        "records": raw(head("[('a', '<f4')]")),
        "big-endian": raw(head("'>f4'")),
        "complex": raw(head("'<c8'")),
        "text": raw(head("'<U2'")),
        "order-is-a-number": raw(head(order="1")),
        "shape-is-a-number": raw(head(shape="2")),
        "size-negative": raw(head(shape="(-2,)")),
        "size-in-letters": raw(head(shape="(two,)")),
        "shape-overflow": raw(head(shape="(4294967296, 4294967296)")),
        "shape-bytes-overflow": raw(head(shape="(4611686018427387904,)")),
        "size-of-2-to-63": raw(head(shape="(9223372036854775808,)")),
        "nine-dimensions": raw(head(shape="(1, 1, 1, 1, 1, 1, 1, 1, 1)")),
        "data-cut": raw(head(), bytes(7)),
        "two-arrays": raw(head()) * 2,
        "text-behind-header": raw(head() + "x"),
    }
    return accept, refuse


def by_hand():
    accept, refuse = hostile_archives()
    refuse |= hostile_pickles() | hostile_tensors()
    accept_npy, refuse_npy = hostile_npy()
    for name, end, files in (("accept", "pt", accept), ("refuse", "pt", refuse),
                             ("accept", "npy", accept_npy), ("refuse", "npy", refuse_npy)):
        folder = fresh(IO / name, f"*.{end}")
        for stem, content in files.items():
            (folder / f"{stem}.{end}").write_bytes(content)


if __name__ == "__main__":
    goldens()
    npy()
    by_hand()
