#!/usr/bin/env python3
"""Load a SAELens folder that `refract export` wrote with the real sae_lens, and compare codes.

    check_saelens.py FOLDER                      loads, and says what it is
    check_saelens.py FOLDER ACTIVATIONS.safetensors [TENSOR] [CODES.safetensors]

Activations are what `refract activations ... out=` writes ([B, T, D], or [n, D]); TENSOR names one
when the file holds several. Codes (tensor `codes` [n, F], dense) are Refract's own; without them
the codes are worked out here in double precision from the exported weights. A latent that one side
selects and the other does not is a swap: allowed within 1e-5 |x - b_dec| of the row's threshold,
and counted. Values must agree within 1e-6 |x - b_dec|. Exit code 0 if they do.
"""
import sys

import sae_lens
import torch
from safetensors.torch import load_file


def pick(tensors, name):
    if name:
        return tensors[name]
    if len(tensors) != 1:
        sys.exit(f"name one of {sorted(tensors)}")
    return next(iter(tensors.values()))


def reference(sae, x):
    """Pre-activations in double, and codes by the rule that cfg.json names."""
    pre = (x - sae.b_dec).double() @ sae.W_enc.double() + sae.b_enc.double()
    if sae.cfg.architecture() != "topk":
        return pre, pre.clamp(min=0)
    values, latents = pre.topk(sae.cfg.k, dim=1)
    return pre, torch.zeros_like(pre).scatter(1, latents, values.clamp(min=0))


def thresholds(sae, pre):
    """What a pre-activation must exceed to be selected, by row."""
    if sae.cfg.architecture() != "topk":
        return torch.zeros(len(pre), 1, dtype=pre.dtype)
    return pre.topk(sae.cfg.k, dim=1).values[:, -1:].clamp(min=0)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sae = sae_lens.SAE.load_from_disk(sys.argv[1])
    metadata = sae.cfg.metadata
    print(f"{sae.cfg.architecture()} d_in {sae.cfg.d_in} d_sae {sae.cfg.d_sae} "
          f"k {getattr(sae.cfg, 'k', None)} hook {metadata.hook_name} model {metadata.model_name}")
    if len(sys.argv) < 3:
        return 0
    x = pick(load_file(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "").float()
    x = x.reshape(-1, sae.cfg.d_in)
    with torch.no_grad():
        theirs = sae.encode(x).double()
        pre, ours = reference(sae, x)
        if len(sys.argv) > 4:
            ours = load_file(sys.argv[4])["codes"].double()
        scale = (x - sae.b_dec).norm(dim=1, keepdim=True).double()
        swaps = (ours > 0) != (theirs > 0)
        far = swaps & ((pre - thresholds(sae, pre)).abs() > 1e-5 * scale)
        error = ((ours - theirs).abs() / scale)[~swaps].max().item()
    print(f"{len(x)} tokens, L0 {(ours > 0).sum(1).double().mean().item():.2f}, "
          f"swaps {int(swaps.sum())} (not at the threshold: {int(far.sum())}), "
          f"largest difference {error:.2e} |x - b_dec|")
    return 0 if not far.any() and error <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
