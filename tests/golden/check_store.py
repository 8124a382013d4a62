"""Compare a store of `refract cache` with what transformers gives: every value of the sites that it knows, the
names, labels, positions and classes, and the checksums.

A site's rows are those of hidden_states (blocks.L.hook_resid_pre and _post), of what a part adds to them
(DINOv2's blocks.L.hook_attn_out and hook_mlp_out, behind LayerScale) or the model's pooled output. The error of
a token is |x - y| / |y|, L2.
usage: python check_store.py MODEL PICTURES STORE [MOST_PICTURES]
"""
import copy
import re
import sys
from pathlib import Path

import h5py
import numpy
import torch
import transformers
import xxhash
from PIL import Image

TOLERANCE = {"fp32": 2e-5, "fp16": 1e-3, "bf16": 8e-3}  # of rounding: 2^-11 and 2^-9 at most, a value at a time


KNOWN = re.compile(r"blocks\.\d+\.hook_(resid_(pre|post)|mlp_out|attn_out)|hook_pooled")


def text(f, name):
    return f[name][()].tobytes().decode()


def check_checksums(f):
    """[groups, sites + 1]: XXH3 of each block, then of the group's part of pictures/valid."""
    group = int(f["group_pictures"][0])
    sums = f["groups/checksum"][()].view("u8")
    assert (f["groups/done"][()] == 1).all(), "not finished"
    blocks = [f[f"activations/{site}/values"] for site in sites(f)] + [f["pictures/valid"]]
    for s, block in enumerate(blocks):
        assert block.chunks is None and block.id.get_offset() is not None, block.name
        with open(f.filename, "rb") as raw:
            step = group * int(numpy.prod(block.shape[1:], dtype="i8")) * block.id.get_type().get_size()
            size = block.id.get_storage_size()
            raw.seek(block.id.get_offset())
            for g in range(len(sums)):
                bytes_ = raw.read(min(step, size - g * step))
                assert xxhash.xxh3_64_intdigest(bytes_) == int(sums[g, s]), (block.name, g)
    print(f"checksums of {len(sums)} groups and {len(blocks)} blocks are right")


def sites(f):
    models, points = (f[f"sites/{key}"][()] for key in ("model", "point"))
    return [p.decode() if m == b"-" else f"{m.decode()}:{p.decode()}" for m, p in zip(models, points)]


def check_pictures(f, folder):
    names = [n.decode() for n in f["pictures/name"][()]]
    classes = [n.decode() for n in f["classes/name"][()]]
    there = sorted(str(p.relative_to(folder)) for p in folder.rglob("*")
                   if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    assert set(names) <= set(there) and names == sorted(names, key=str.encode), "names"
    assert classes == sorted({n.split("/")[0] for n in there}, key=str.encode), "classes"
    for name, label in zip(names, f["pictures/label"][()]):
        assert classes[label] == name.split("/")[0], name
    assert (f["pictures/valid"][()] == 1).all()
    print(f"{len(names)} names and labels of {len(there)} pictures are right")
    return names


def check_rows(f, site, model):
    """CLS first, then registers, then patches row by row."""
    first = int(f["sites/first_row"][sites(f).index(site)])
    classes, positions = f[f"activations/{site}/class"][()], f[f"activations/{site}/position"][()]
    if site == "hook_pooled":
        assert (classes == 4).all() and (positions == -1).all()
        return first
    n_registers = getattr(model.config, "num_register_tokens", 0)
    n_side = model.config.image_size // model.config.patch_size
    n_rows = int(f["sites/point_rows"][sites(f).index(site)])
    n_side = int(round((n_rows - 1 - n_registers) ** 0.5)) or n_side
    assert n_rows == 1 + n_registers + n_side ** 2, site
    for r in range(len(classes)):
        patch = first + r - 1 - n_registers
        wanted = (3, 0, patch // n_side, patch % n_side) if patch >= 0 else (1 if first + r == 0 else 2, -1, -1, -1)
        assert (classes[r], *positions[r]) == wanted, (site, r)
    return first


def run(model, pixels):
    """{site: [pictures, rows, width]}"""
    kept, hooks = {}, []
    for i, layer in enumerate(model.encoder.layer):
        for word, part in (("hook_mlp_out", "layer_scale2"), ("hook_attn_out", "layer_scale1")):
            def keep(_module, _inputs, output, key=f"blocks.{i}.{word}"):
                kept[key] = output[0] if isinstance(output, tuple) else output
            hooks.append(getattr(layer, part).register_forward_hook(keep))
    with torch.no_grad():
        out = model(pixels, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    for i in range(len(model.encoder.layer)):
        kept[f"blocks.{i}.hook_resid_pre"] = out.hidden_states[i]
        kept[f"blocks.{i}.hook_resid_post"] = out.hidden_states[i + 1]
    kept["hook_pooled"] = out.pooler_output[:, None]
    return kept


def load(path):
    """Only pixels: a colour that is marked as transparent, which convert() keeps beside them, would be used when
    transformers resizes."""
    return Image.fromarray(numpy.asarray(Image.open(path).convert("RGB")))


def errors_of(x, y):
    return (x - y).norm(dim=-1) / y.norm(dim=-1)


def check_batch(f, first_picture, model, pixels, firsts, tolerance, worst, beyond):
    """Tokens that differ by more than the tolerance must be due to transformers' own rounding too: the store is
    within the tolerance of the same model in double precision, or nearer to it than transformers' fp32 is."""
    kept, exact = run(model, pixels), None
    for site, first in firsts.items():
        x = f[f"activations/{site}/values"][first_picture:first_picture + len(pixels)].astype("f4")
        x = torch.from_numpy(x).double()
        y = kept[site][:, first:first + x.shape[1]].double()
        error = errors_of(x, y)
        worst[site] = max(worst[site], float(error.max()))
        if not float(error.max()) <= tolerance:
            exact = exact or run(copy.deepcopy(model).double(), pixels.double())
            z = exact[site][:, first:first + x.shape[1]]
            ours, theirs = errors_of(x, z), errors_of(y, z)
            for picture, row in (~(error <= tolerance)).nonzero().tolist():
                at = float(error[picture, row]), float(ours[picture, row]), float(theirs[picture, row])
                print(f"{site}, picture {first_picture + picture}, row {first + row}: {at[0]:.2e} from transformers; "
                      f"from double precision {at[1]:.2e}, transformers {at[2]:.2e}", flush=True)
                beyond[site].append(at[1] <= max(tolerance, at[2]))


def main():
    model_dir, folder, path = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    model = transformers.AutoModel.from_pretrained(model_dir, attn_implementation="eager").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(model_dir, backend="pil")
    with h5py.File(path) as f:
        assert text(f, "format") == "refract store" and f["version"][0] == 1
        dtype = text(f, "dtype")
        print(f"{path}: {dtype}, {sites(f)}")
        for name in ("pictures/name", "groups/done", f"activations/{sites(f)[0]}/values"):
            assert f[name].attrs["description"], name
        unknown = [s for s in sites(f) if not KNOWN.fullmatch(s)]
        assert not unknown, f"no reference for {unknown}"
        check_checksums(f)
        names = check_pictures(f, folder)
        most = int(sys.argv[4]) if len(sys.argv) > 4 else len(names)
        firsts = {site: check_rows(f, site, model) for site in sites(f)}
        worst, beyond = dict.fromkeys(sites(f), 0.0), {site: [] for site in sites(f)}
        for i in range(0, most, 8):
            pictures = [load(folder / n) for n in names[i:min(i + 8, most)]]
            pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
            check_batch(f, i, model, pixels, firsts, TOLERANCE[dtype], worst, beyond)
        for site, error in worst.items():
            print(f"{site:32} largest error of a token over {most} pictures: {error:.2e}; "
                  f"{len(beyond[site])} tokens beyond {TOLERANCE[dtype]:g}")
        if not all(all(found) for found in beyond.values()):
            sys.exit("some of them are further from double precision than that, and than transformers is")


if __name__ == "__main__":
    main()
