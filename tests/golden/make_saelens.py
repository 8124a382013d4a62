#!/usr/bin/env python3
"""Make saelens.safetensors: tiny coders, activations, and what the real sae_lens makes of them.

    make_saelens.py [OUT.safetensors]

For each case it draws a coder as Refract keeps it (one latent a row; W_enc sees normalised tokens,
less b_dec where the coder subtracts), puts the constants of its normalisation into the weights (in
double, by the formulas of CASES' `fold` below), writes the folder that SAELens reads, loads it with
SAE.load_from_disk and runs 16 activations. The file holds for each case Refract's tensors
("case.W_enc" [F, D] ...), SAELens's ("case.sae.W_enc" [D, F] ...), x, the dense codes and the
reconstructions; versions are in the metadata. No pre-activation is nearer than 1e-4 to what decides
whether it is selected, so that no order of summation changes which latents are.
"""
import json
import os
import sys
import tempfile

import sae_lens
import safetensors
import torch
from safetensors.torch import save_file

D, E, F, N, K = 12, 8, 40, 16, 5

# name: (kind, normalisation, subtracts b_dec, is a transcoder, skips)
CASES = {
    "topk": ("topk", "none", True, False, False),
    "relu": ("standard", "none", True, False, False),
    "jumprelu": ("jumprelu", "none", True, False, False),
    "gated": ("gated", "none", True, False, False),
    "batch_topk": ("batch", "none", True, False, False),
    "no_subtract": ("topk", "none", False, False, False),
    "average": ("topk", "constants", True, False, False),
    "average_no_subtract": ("jumprelu", "constants", False, False, False),
    "per_dimension": ("standard", "constants", True, False, False),
    "per_dimension_no_subtract": ("gated", "constants", False, False, False),
    "layer": ("topk", "layer_norm", True, False, False),
    "constant": ("jumprelu", "constant_norm_rescale", True, False, False),
    "transcoder": ("standard", "none", False, True, False),
    "transcoder_jump": ("jumprelu", "none", False, True, False),
    "transcoder_average": ("batch", "constants", False, True, False),
    "transcoder_layer": ("standard", "layer_norm", False, True, False),
    "skip": ("standard", "none", False, True, True),
    "skip_per_dimension": ("jumprelu", "constants", False, True, True),
}


def normals(generator, *shape, scale=1.0):
    return torch.randn(*shape, generator=generator) * scale


def make_coder(generator, kind, norm, transcoder, skip):
    e = (D if skip else E) if transcoder else D
    coder = {
        "W_enc": normals(generator, F, D, scale=0.3),
        "W_dec": normals(generator, F, e, scale=0.3),
        "b_enc": normals(generator, F, scale=0.2),
        "b_dec": normals(generator, e, scale=0.5),
    }
    if kind == "jumprelu":
        coder["log_threshold"] = normals(generator, F, scale=0.3) - 1
    if kind == "batch":
        coder["bound"] = torch.tensor([0.75])
    if kind == "gated":
        coder["gain"] = normals(generator, F, scale=0.3)
        coder["b_mag"] = normals(generator, F, scale=0.3)
    if skip:
        coder["W_skip"] = normals(generator, e, D, scale=0.2)
    if norm == "constants":
        coder["in_shift"] = normals(generator, D, scale=0.4)
        coder["in_scale"] = 1.5 + normals(generator, D, scale=0.1)
        if transcoder:
            coder["out_shift"] = normals(generator, e, scale=0.4)
            coder["out_scale"] = 0.7 + normals(generator, e, scale=0.1)
    return coder


def fold(coder, subtracts):
    """SAELens's tensors: y = coder((x - s) a) / a' + s' written as one of raw x, in double."""
    c = {key: value.double() for key, value in coder.items()}
    e = c["W_dec"].shape[1]
    a, s = c.get("in_scale", torch.ones(D)).double(), c.get("in_shift", torch.zeros(D)).double()
    own = "out_scale" in c
    a_out = c["out_scale"] if own else (a if "in_scale" in c else torch.ones(e).double())
    s_out = c["out_shift"] if own else (s if "in_shift" in c else torch.zeros(e).double())
    w_enc = c["W_enc"] * a
    lost = torch.zeros(F).double() if subtracts else w_enc @ s
    out = {
        "W_enc": w_enc.T,
        "W_dec": c["W_dec"] / a_out,
        "b_dec": c["b_dec"] / a_out + s_out,
    }
    if "gain" in c:
        out["b_gate"] = c["b_enc"] - lost
        out["b_mag"] = c["b_mag"] - c["gain"].exp() * lost
        out["r_mag"] = c["gain"]
    else:
        out["b_enc"] = c["b_enc"] - lost
    if "log_threshold" in c:
        out["threshold"] = c["log_threshold"].exp()
    if "bound" in c:
        out["threshold"] = c["bound"].expand(F)
    if "W_skip" in c:
        out["W_skip"] = c["W_skip"] * a / a_out[:, None]
        out["b_dec"] = out["b_dec"] - out["W_skip"] @ s
    return {key: value.float().contiguous() for key, value in out.items()}


def architecture(kind, transcoder, skip):
    kind = "jumprelu" if kind == "batch" else kind
    if not transcoder:
        return kind
    name = "skip_transcoder" if skip else "transcoder"
    return f"jumprelu_{name}" if kind == "jumprelu" else name


def load(weights, kind, norm, subtracts, transcoder, skip):
    cfg = {
        "architecture": architecture(kind, transcoder, skip),
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": subtracts,
        "normalize_activations": "none" if norm == "constants" else norm,
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": sae_lens.__version__},
    }
    if transcoder:
        cfg["d_out"] = weights["W_dec"].shape[1]
    if kind == "topk":
        cfg.update(k=K, rescale_acts_by_decoder_norm=False)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "cfg.json"), "w") as f:
            json.dump(cfg, f)
        save_file(weights, os.path.join(folder, "sae_weights.safetensors"))
        return sae_lens.SAE.load_from_disk(folder)


def threshold_gap(sae, x, kind):
    """The least distance of a pre-activation to what decides about it."""
    sae = sae.to(torch.float64)
    seen = sae.process_sae_in(x.double())
    if kind == "gated":
        gate = seen @ sae.W_enc + sae.b_gate
        magnitude = seen @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag
        return min(gate.abs().min().item(), magnitude.abs().min().item())
    pre = seen @ sae.W_enc + sae.b_enc
    if kind == "topk":
        top = pre.sort(dim=1, descending=True).values
        return min((top[:, K - 1] - top[:, K]).min().item(), pre.abs().min().item())
    threshold = getattr(sae, "threshold", torch.zeros(F))
    return (pre - threshold).abs().min().item()


def draw(seed, case):
    kind, norm, subtracts, transcoder, skip = case
    generator = torch.Generator().manual_seed(seed)
    while True:
        coder, x = make_coder(generator, kind, norm, transcoder, skip), normals(generator, N, D) + 0.3
        weights = fold(coder, subtracts)
        with torch.no_grad():
            if threshold_gap(load(weights, *case), x, kind) > 1e-4:
                return coder, weights, x


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "saelens.safetensors")
    tensors = {}
    for seed, (name, case) in enumerate(CASES.items()):
        coder, weights, x = draw(seed, case)
        sae = load(weights, *case)
        with torch.no_grad():
            codes, x_hat = sae.encode(x), sae(x)
        tensors.update({f"{name}.{key}": value for key, value in coder.items()})
        tensors.update({f"{name}.sae.{key}": value for key, value in weights.items()})
        tensors.update({f"{name}.x": x, f"{name}.codes": codes, f"{name}.x_hat": x_hat})
        print(name, "mean active latents", (codes > 0).sum(1).float().mean().item())
    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    save_file(tensors, out, metadata={"sae_lens": sae_lens.__version__, "torch": torch.__version__,
                                      "safetensors": safetensors.__version__, "k": str(K)})


if __name__ == "__main__":
    main()
