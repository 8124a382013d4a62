#!/usr/bin/env python3
"""Load SAELens folders that `refract export` wrote with the real sae_lens, and compare.

    check_saelens.py FOLDER                      loads, and says what it is
    check_saelens.py FOLDER ACTIVATIONS.safetensors [TENSOR] [CODES.safetensors]
    check_saelens.py --made OUT                  every folder that `helper_saelens OUT` made

Activations are what `refract activations ... out=` writes ([B, T, D], or [n, D]); TENSOR names one
when the file holds several. Codes (tensor `codes` [n, F], dense) are Refract's own; without them
the codes are worked out here in double precision from the exported weights. A latent that one side
selects and the other does not is a swap: allowed within 1e-5 |seen| of what decides about it, and
counted; seen is what W_enc is multiplied with. Values must agree within 1e-6 |seen|.

--made compares Refract's codes and reconstructions with sae_lens's: values within 2e-6 of the
norm of the row's codes, reconstructions within 2e-6 of their norm (1e-4 where cfg.json notes that
the way back differs), no swaps that are not at the threshold. Exit code 0 if all agree.
"""
import copy
import os
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


def distances(sae, x):
    """How far each pre-activation is from what decides about it, in double; and |seen|."""
    seen = sae.process_sae_in(x.double())
    norm = seen.norm(dim=1, keepdim=True)
    if sae.cfg.architecture() == "gated":
        gate = seen @ sae.W_enc + sae.b_gate
        magnitude = seen @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag
        return torch.minimum(gate.abs(), magnitude.abs()), norm
    pre = seen @ sae.W_enc + sae.b_enc
    if sae.cfg.architecture() == "topk":
        bound = pre.topk(sae.cfg.k, dim=1).values[:, -1:].clamp(min=0)
    else:
        bound = getattr(sae, "threshold", torch.zeros(1, dtype=pre.dtype))
    return (pre - bound).abs(), norm


def check_one(folder, arguments):
    sae = sae_lens.SAE.load_from_disk(folder)
    metadata = sae.cfg.metadata
    print(f"{sae.cfg.architecture()} d_in {sae.cfg.d_in} d_sae {sae.cfg.d_sae} "
          f"k {getattr(sae.cfg, 'k', None)} hook {metadata.hook_name} model {metadata.model_name}")
    if not arguments:
        return 0
    x = pick(load_file(arguments[0]), arguments[1] if len(arguments) > 1 else "").float()
    x = x.reshape(-1, sae.cfg.d_in)
    sae.turn_off_forward_pass_hook_z_reshaping()
    exact = copy.deepcopy(sae).to(torch.float64)
    with torch.no_grad():
        theirs = sae.encode(x).double()
        gap, scale = distances(exact, x)
        ours = (load_file(arguments[2])["codes"] if len(arguments) > 2 else exact.encode(x)).double()
        swaps = (ours > 0) != (theirs > 0)
        far = swaps & (gap > 1e-5 * scale)
        error = ((ours - theirs).abs() / scale)[~swaps].max().item()
    print(f"{len(x)} tokens, L0 {(ours > 0).sum(1).double().mean().item():.2f}, "
          f"swaps {int(swaps.sum())} (not at the threshold: {int(far.sum())}), "
          f"largest difference {error:.2e} |seen|")
    return 0 if not far.any() and error <= 1e-6 else 1


def check_made(folder):
    """Largest difference of values and of reconstructions, relative; swaps, and those that are no
    matter of rounding."""
    sae = sae_lens.SAE.load_from_disk(folder)
    made = {key: value.double() for key, value in load_file(
        os.path.join(folder, "refract.safetensors")).items()}
    with torch.no_grad():
        codes, y_hat = sae.encode(made["x"].float()).double(), sae(made["x"].float()).double()
        gap, scale = distances(copy.deepcopy(sae).to(torch.float64), made["x"])
    swaps = (made["codes"] > 0) != (codes > 0)
    far = swaps & (gap > 1e-5 * scale)
    values = (made["codes"] - codes).abs()[~swaps]
    norms = codes.norm(dim=1, keepdim=True).clamp(min=1e-3).expand_as(codes)[~swaps]
    same = ~swaps.any(dim=1)
    back = ((made["y_hat"] - y_hat).norm(dim=1) / y_hat.norm(dim=1))[same].max().item()
    noted = "refract_note" in sae.cfg.metadata.to_dict()
    l0 = (codes > 0).sum(1).double().mean().item()
    error = (values / norms).max().item()
    ok = not far.any() and error <= 2e-6 and back <= (1e-4 if noted else 2e-6) and l0 > 1
    print(f"{os.path.basename(folder):42} {sae.cfg.architecture():24} L0 {l0:6.1f} values "
          f"{error:.1e} reconstruction {back:.1e} swaps {int(swaps.sum())} ({int(far.sum())} far)"
          f"{' way back noted' if noted else ''}{'' if ok else '  WRONG'}")
    return error, back, noted, int(swaps.sum()), ok


def check_all(out):
    rows = [check_made(os.path.join(out, name)) for name in sorted(os.listdir(out))]
    print(f"{len(rows)} folders, largest difference of values {max(r[0] for r in rows):.1e}, of "
          f"reconstructions {max(r[1] for r in rows if not r[2]):.1e} (where the way back is noted "
          f"{max((r[1] for r in rows if r[2]), default=0):.1e}), swaps {sum(r[3] for r in rows)}")
    return 0 if all(r[4] for r in rows) else 1


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--made":
        return check_all(sys.argv[2])
    return check_one(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
