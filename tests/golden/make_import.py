"""Make tests/golden/import/: small activations as other tools write them; tests/data/accept/: a store that
h5py wrote by docs/format-store.md; and tests/data/refuse/: stores that must be refused.

Value of dimension d of token t at layer l of picture p, everywhere: (((p*3 + l)*5 + t)*7 + d) * 37 % 251 - 125,
which every type of float holds exactly. saev's shards are written by its format (protocols 2.1, 1.0 and the
one before, without shards.json), the others by NumPy, safetensors and PyTorch.
usage: python make_import.py   (in any folder)
"""
import json
import platform
import shutil
from pathlib import Path

import h5py
import numpy
import safetensors
import torch
import xxhash
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parent
OUT = GOLDEN / "import"
ACCEPT = GOLDEN.parent / "data" / "accept"
REFUSE = GOLDEN.parent / "data" / "refuse"
VERSIONS = {
    "made_by": "make_import.py",
    "numpy": numpy.__version__,
    "safetensors": safetensors.__version__,
    "torch": torch.__version__,
    "h5py": h5py.__version__,
    "xxhash": xxhash.VERSION,
    "python": platform.python_version(),
}


def values(n_pictures, n_layers, n_rows, width):
    """[pictures, layers, rows, width]"""
    p, l, t, d = numpy.indices((n_pictures, n_layers, n_rows, width))
    return ((((p * 3 + l) * 5 + t) * 7 + d) * 37 % 251 - 125).astype("float32")


def arrays():
    x = values(5, 1, 5, 3)[:, 0]
    numpy.save(OUT / "images.npy", x)
    numpy.save(OUT / "fortran.npy", numpy.asfortranarray(x))
    numpy.save(OUT / "integers.npy", x.astype("int32"))
    numpy.save(OUT / "one_dimension.npy", x[0, 0])
    numpy.save(OUT / "whole.npy", values(3, 2, 5, 4).astype("float64"))
    numpy.save(OUT / "tokens.npy", values(4, 1, 5, 3).reshape(20, 3).astype("float16"))
    numpy.save(OUT / "labels.npy", numpy.array([2, 0, -1, 1, 2]))
    (OUT / "names.txt").write_text("".join(f"n01/picture {i}.jpg\n" for i in range(5)))
    folder = OUT / "folder"
    folder.mkdir()
    x = values(7, 1, 4, 3)[:, 0]
    for name, part in (("part2", x[:2]), ("part10", x[2:6]), ("part11", x[6:])):
        numpy.save(folder / f"{name}.npy", part)


def tensors():
    x = torch.from_numpy(values(4, 1, 4, 3)[:, 0])
    save_file({"acts": x.bfloat16().contiguous(), "ids": torch.arange(4)}, OUT / "one.safetensors",
              metadata=VERSIONS)
    save_file({"acts": x.clone(), "other": x.clone()}, OUT / "two.safetensors", metadata=VERSIONS)


def prisma():
    """[tokens, layers, width] of fp16, a file each so many tokens: pictures of 5 go over their ends."""
    folder = OUT / "prisma"
    folder.mkdir()
    x = torch.from_numpy(values(8, 2, 5, 3)).permute(0, 2, 1, 3).reshape(40, 2, 3).half()
    for i, first in enumerate(range(0, 40, 3)):
        torch.save(x[first:first + 3].clone(), folder / f"{i}.pt")


def saev(name, names, n_pictures, per_shard, n_rows, has_cls, layers, with_shards):
    folder = OUT / name
    folder.mkdir()
    width = 3
    x = values(n_pictures, len(layers), n_rows, width)
    budget = per_shard * n_rows * len(layers) + 2
    metadata = {names["family"]: "clip", names["ckpt"]: "tiny", "layers": layers,
                names["content"]: n_rows - has_cls, "cls_token": bool(has_cls), names["width"]: width,
                names["n"]: n_pictures, names["budget"]: budget, "data": "eA=="}
    if with_shards:
        metadata |= {"dtype": "float32", "protocol": names["protocol"]}
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=4))
    shards = []
    for i, first in enumerate(range(0, n_pictures, per_shard)):
        shard = numpy.memmap(folder / f"acts{i:06}.bin", mode="w+", dtype="float32",
                             shape=(per_shard, len(layers), n_rows, width))
        part = x[first:first + per_shard]
        shard[:len(part)] = part
        shard.flush()
        shards.append({"name": f"acts{i:06}.bin", names["n"]: len(part)})
    if with_shards:
        (folder / "shards.json").write_text(json.dumps(shards))


NEWER = {"family": "family", "ckpt": "ckpt", "content": "content_tokens_per_example", "width": "d_model",
         "n": "n_examples", "budget": "max_tokens_per_shard", "protocol": "2.1"}
OLDER = {"family": "vit_family", "ckpt": "vit_ckpt", "content": "n_patches_per_img", "width": "d_vit",
         "n": "n_imgs", "budget": "max_patches_per_shard", "protocol": "1.0.0"}


def text(f, name, words):
    f.create_dataset(name, data=numpy.frombuffer(words.encode(), "u1"))


def strings(f, name, texts, width):
    """Of one length, UTF-8, padded with zeros."""
    d = f.create_dataset(name, (len(texts),), h5py.string_dtype("utf-8", width))
    if texts:
        d.id.write(h5py.h5s.ALL, h5py.h5s.ALL, numpy.array(texts, f"S{width}"), mtype=d.id.get_type())


def renamed(name, texts, width):
    def change(f):
        del f[name]
        strings(f, name, texts, width)
    return change


def checksums(values, valid):
    """[groups, sites + 1] for groups of 2 pictures."""
    rows = [[xxhash.xxh3_64_intdigest(part[i:i + 2].tobytes()) for part in (values, valid)] for i in (0, 2)]
    return numpy.array(rows, "u8").view("i8")


def store(path, change):
    """A store by docs/format-store.md that is read, but for what `change` does."""
    values = numpy.arange(24, dtype="f4").reshape(3, 2, 4)
    valid = numpy.array([1, 0, 1], "u1")
    values[1] = 0
    with h5py.File(path, "w", libver=("v110", "v110")) as f:
        text(f, "format", "refract store")
        f["version"] = numpy.array([1], "i8")
        for name, words in (("dtype", "fp32"), ("model", "m"), ("weight_processing", ""), ("settings", "")):
            if words:
                text(f, name, words)
            else:
                f.create_dataset(name, shape=(0,), dtype="u1")
        for name, number in (("group_pictures", 2), ("model_hash", 1), ("picture_hash", 2)):
            f[name] = numpy.array([number], "i8")
        f["holdout"] = numpy.array([0.0])
        strings(f, "pictures/name", [b"p0", b"p1", b"p2"], 2)
        f["pictures/label"] = numpy.array([-1, 0, 1])
        f["pictures/valid"] = valid
        strings(f, "classes/name", [], 1)
        strings(f, "sites/model", [b"-"], 1)
        strings(f, "sites/point", [b"x"], 1)
        f["sites/first_row"] = numpy.array([0])
        f["sites/point_rows"] = numpy.array([2])
        f["activations/x/values"] = values
        f["activations/x/class"] = numpy.array([1, 3], "u1")
        f["activations/x/position"] = numpy.array([[-1] * 3, [0] * 3], "i4")
        f["groups/checksum"] = checksums(values, valid)
        f["groups/done"] = numpy.ones(2, "u1")
        change(f)


def replaced(name, data):
    def change(f):
        del f[name]
        if data is not None:
            f[name] = data
    return change


def in_chunks(f):
    del f["activations/x/values"]
    f.create_dataset("activations/x/values", data=numpy.zeros((3, 2, 4), "f4"), chunks=(1, 2, 4))


def outside(f):
    del f["activations/x/values"]
    f.create_dataset("activations/x/values", (3, 2, 4), "f4", external=[("/etc/hostname", 0, 96)])


def unwritten(f):
    """Larger than any file, and nothing of it there."""
    del f["activations/x/values"]
    f.create_dataset("activations/x/values", (3, 2**40, 2**20), "f4")


def variable(f):
    del f["pictures/name"]
    f.create_dataset("pictures/name", data=["p0", "p1", "p2"])


def compressed(f):
    names = f["pictures/name"][()]
    del f["pictures/name"]
    f.create_dataset("pictures/name", data=names, compression="gzip")


def unwritten_names(f):
    """Half a GiB of names, none of which is there."""
    del f["pictures/name"]
    f.create_dataset("pictures/name", (2**28,), h5py.string_dtype("utf-8", 2), chunks=(4096,))


def large_chunk(f):
    del f["pictures/label"]
    f.create_dataset("pictures/label", (3,), "i8", maxshape=(None,), chunks=(2**27,))


def older_object(path):
    """A dataset whose header has no checksum, in a file of the newer kind."""
    store(path, lambda f: f.__delitem__("pictures/label"))
    with h5py.File(path, "r+", libver=("earliest", "v110")) as f:
        f["pictures/label"] = numpy.array([-1, 0, 1])


def users_block(path):
    store(path, lambda f: None)
    path.write_bytes(bytes(512) + path.read_bytes())


def stores():
    if REFUSE.exists():
        shutil.rmtree(REFUSE)
    REFUSE.mkdir(parents=True)
    ACCEPT.mkdir(parents=True, exist_ok=True)
    store(ACCEPT / "by-h5py.h5", lambda f: None)
    cases = {
        "checksums-of-others": replaced("groups/checksum", numpy.zeros((2, 2), "i8")),
        "version-2": replaced("version", numpy.array([2])),
        "another-format": replaced("format", numpy.frombuffer(b"refract checkpoint", "u1")),
        "no-format": replaced("format", None),
        "no-done": replaced("groups/done", None),
        "done-is-2": replaced("groups/done", numpy.array([1, 2], "u1")),
        "done-too-few": replaced("groups/done", numpy.ones(1, "u1")),
        "type-fp8": replaced("dtype", numpy.frombuffer(b"fp8", "u1")),
        "type-differs": replaced("dtype", numpy.frombuffer(b"fp16", "u1")),
        "groups-of-0": replaced("group_pictures", numpy.array([0])),
        "groups-of-minus-1": replaced("group_pictures", numpy.array([-1])),
        "groups-of-2-to-62": replaced("group_pictures", numpy.array([2**62])),
        "holdout-nan": replaced("holdout", numpy.array([numpy.nan])),
        "label-minus-2": replaced("pictures/label", numpy.array([-2, 0, 1])),
        "labels-too-few": replaced("pictures/label", numpy.array([0, 1])),
        "rows-elsewhere": replaced("sites/first_row", numpy.array([1])),
        "row-overflows": replaced("sites/first_row", numpy.array([2**63 - 1])),
        "points-of-minus-1-rows": replaced("sites/point_rows", numpy.array([-1])),
        "points-of-least-rows": replaced("sites/point_rows", numpy.array([-2**63])),
        "class-7": replaced("activations/x/class", numpy.array([1, 7], "u1")),
        "position-minus-2": replaced("activations/x/position", numpy.full((2, 3), -2, "i4")),
        "two-points-one-model": renamed("sites/point", [b"x", b"y"], 1),
        "point-above": renamed("sites/point", [b"../x"], 4),
        "point-is-a-path": renamed("sites/point", [b"/x"], 2),
        "names-compressed": compressed,
        "names-never-written": unwritten_names,
        "labels-in-a-chunk-of-1-GiB": large_chunk,
        "names-are-numbers": replaced("pictures/name", numpy.arange(3)),
        "names-vary": variable,
        "values-soft": replaced("activations/x/values", h5py.SoftLink("/groups/checksum")),
        "values-external": replaced("activations/x/values", h5py.ExternalLink("version-2.h5", "groups/done")),
        "site-soft": replaced("activations/x", h5py.SoftLink("/groups")),
        "values-outside": outside,
        "values-in-chunks": in_chunks,
        "values-never-written": unwritten,
        "values-of-two-axes": replaced("activations/x/values", numpy.zeros((3, 8), "f4")),
        "values-of-no-rows": replaced("activations/x/values", numpy.zeros((3, 0, 4), "f4")),
        "values-of-fewer-pictures": replaced("activations/x/values", numpy.zeros((2, 2, 4), "f4")),
        "values-are-a-group": lambda f: (f.__delitem__("activations/x/values"),
                                         f.create_group("activations/x/values")),
    }
    for name, change in cases.items():
        store(REFUSE / f"{name}.h5", change)
    older_object(REFUSE / "objects-without-checksums.h5")
    users_block(REFUSE / "behind-a-users-block.h5")


def main():
    if OUT.exists():
        shutil.rmtree(OUT)
    OUT.mkdir()
    arrays()
    tensors()
    prisma()
    saev("saev", NEWER, 7, 3, 5, 1, [1, 5, 11], True)
    saev("saev-1", OLDER, 4, 2, 4, 0, [3], True)
    saev("saev-0", OLDER, 5, 2, 5, 1, [0, 1], False)
    stores()
    (OUT / "versions.txt").write_text("".join(f"{k}: {v}\n" for k, v in VERSIONS.items()))


if __name__ == "__main__":
    main()
