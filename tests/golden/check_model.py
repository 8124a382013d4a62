"""Compares `refract activations` with transformers on a real model, hook point by hook point.

Run: python check_model.py [--refract PROGRAM] MODEL_DIR PICTURE...
Prints the worst error of each hook point over layers and tokens (L2 of a token's vector over its
norm, a norm below 1 counting as 1) and, beside it, what fp32 torch itself differs from fp64. Fails
above 2e-5, or above twice torch's own error where that is more: DINOv2-small's block 3 has scores
of 300, whose rounding alone moves a softmax by 3e-5.
Pictures are first resized to what the model's crop is taken from, so that only the model counts.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy
import PIL.Image
import safetensors.torch
import torch
from transformers import AutoModel

import make_vit

TOLERANCE = 2e-5
LAYERS_AT_ONCE = 8


def prepare(model_dir, pictures, folder):
    """PNGs that need no resizing, and the tensor that the model sees."""
    p = json.loads((pathlib.Path(model_dir) / "preprocessor_config.json").read_text())
    size = p["size"]
    side = size if isinstance(size, int) else size.get("shortest_edge", size.get("height"))
    crop = p.get("crop_size", side) if p.get("do_center_crop") else side
    crop = crop if isinstance(crop, int) else crop["height"]
    mean, std = (torch.tensor(p[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    paths, images = [], []
    for i, name in enumerate(pictures):
        picture = PIL.Image.open(name).convert("RGB").resize((side, side), PIL.Image.BICUBIC)
        paths.append(str(pathlib.Path(folder) / f"{i}.png"))
        picture.save(paths[-1])
        at = (side - crop) // 2
        x = torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)[:, at:at + crop, at:at + crop]
        images.append((x * p.get("rescale_factor", 1 / 255) - mean) / std)
    return paths, torch.stack(images)


def run_transformers(model_dir, images, dtype):
    model = AutoModel.from_pretrained(model_dir).to(dtype).eval()
    model.set_attn_implementation("eager")
    family = {"vit": "vit", "dinov2": "dinov2"}.get(model.config.model_type, "clip")
    tower = getattr(model, "vision_model", model)
    with torch.no_grad(), make_vit.Recorder(family, tower) as recorder:
        tower(images.to(dtype))
        recorder.finish(images.shape[-1])
    return {k: v.double() for k, v in recorder.points.items()}


def run_refract(program, model_dir, paths, names, folder):
    found = {}
    chunks = {}
    for name in names:
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else 0
        chunks.setdefault(layer // LAYERS_AT_ONCE, []).append(name)
    for chunk in chunks.values():
        out = str(pathlib.Path(folder) / "activations.safetensors")
        subprocess.run([program, "activations", model_dir, *paths, "hooks=" + ",".join(chunk),
                        "out=" + out], check=True, capture_output=True)
        found.update(safetensors.torch.load_file(out))
    return {k: v.double() for k, v in found.items()}


def by_token(x, kind):
    """[B, T, all that belongs to a token]: heads together, a pattern's rows by their query."""
    if kind in ("attn.hook_pattern", "attn.hook_attn_scores"):
        x = x.transpose(1, 2)
    return x.flatten(2) if x.dim() > 3 else x


def worst(got, want, kind):
    got, want = by_token(got, kind), by_token(want, kind)
    return ((got - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=1.0)).max().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--refract", default="build/release/bin/refract")
    parser.add_argument("model")
    parser.add_argument("pictures", nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths, images = prepare(args.model, args.pictures, folder)
        want = run_transformers(args.model, images, torch.float32)
        exact = run_transformers(args.model, images, torch.float64)
        got = run_refract(args.refract, args.model, paths, want, folder)
    table = {}
    for name, reference in want.items():
        kind = name.split(".", 2)[2] if name.startswith("blocks.") else name
        errors = (worst(got[name], reference, kind), worst(reference, exact[name], kind))
        table[kind] = tuple(max(a, b) for a, b in zip(errors, table.get(kind, (0.0, 0.0))))
    failed = False
    print(f"{'hook point':28} refract-torch  torch-fp64   ({len(args.pictures)} pictures)")
    for kind, (error, own) in table.items():
        bad = not error <= max(TOLERANCE, 2 * own)
        failed |= bad
        print(f"{kind:28} {error:13.2e} {own:11.2e} {'  TOO LARGE' if bad else ''}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
