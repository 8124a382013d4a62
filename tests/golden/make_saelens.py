#!/usr/bin/env python3
"""Make saelens.safetensors: tiny coders, activations, and the codes that the real sae_lens gives.

    make_saelens.py [OUT.safetensors]

For each of two coders (TopK with k = 5, ReLU; D = 24, F = 100) it writes a SAELens folder by hand,
as `refract export` lays it out, loads it with SAE.load_from_disk and encodes 40 activations.
The fixture holds the parameters with one latent a row (as Refract keeps them), the activations,
the dense codes [40, 100] and the reconstructions; versions are in the metadata. No pre-activation
is nearer than 1e-4 to its row's threshold, so that no order of summation changes which latents are
selected.
"""
import json
import os
import sys
import tempfile

import sae_lens
import safetensors
import torch
from safetensors.torch import save_file

D, F, N, K = 24, 100, 40, 5


def normals(generator, *shape, scale=1.0):
    return torch.randn(*shape, generator=generator) * scale


def make_coder(generator):
    return {
        "W_enc": normals(generator, F, D, scale=0.3),
        "W_dec": normals(generator, F, D, scale=0.3),
        "b_enc": normals(generator, F, scale=0.2),
        "b_dec": normals(generator, D, scale=0.5),
    }


def write_folder(folder, coder, architecture):
    cfg = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": sae_lens.__version__},
    }
    if architecture == "topk":
        cfg.update(k=K, rescale_acts_by_decoder_norm=False)
    with open(os.path.join(folder, "cfg.json"), "w") as f:
        json.dump(cfg, f)
    weights = dict(coder, W_enc=coder["W_enc"].T.contiguous())
    save_file(weights, os.path.join(folder, "sae_weights.safetensors"))


def threshold_gap(coder, x):
    """The least distance of pre-activations at the edge of selection, over rows."""
    pre = (x - coder["b_dec"]).double() @ coder["W_enc"].T.double() + coder["b_enc"].double()
    top = pre.sort(dim=1, descending=True).values
    return min((top[:, K - 1] - top[:, K]).min().item(), pre.abs().min().item())


def run(coder, architecture, x):
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, coder, architecture)
        sae = sae_lens.SAE.load_from_disk(folder)
    with torch.no_grad():
        codes = sae.encode(x)
        return codes, sae.decode(codes)


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "saelens.safetensors")
    tensors = {}
    for seed, (name, architecture) in enumerate([("topk", "topk"), ("relu", "standard")]):
        generator = torch.Generator().manual_seed(seed)
        while True:
            coder, x = make_coder(generator), normals(generator, N, D)
            if threshold_gap(coder, x) > 1e-4:
                break
        codes, x_hat = run(coder, architecture, x)
        for key, value in {**coder, "x": x, "codes": codes, "x_hat": x_hat}.items():
            tensors[f"{name}.{key}"] = value.contiguous()
        print(name, "mean active latents", (codes > 0).sum(1).float().mean().item())
    save_file(tensors, out, metadata={"sae_lens": sae_lens.__version__, "torch": torch.__version__,
                                      "safetensors": safetensors.__version__, "k": str(K)})


if __name__ == "__main__":
    main()
