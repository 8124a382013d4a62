"""Golden losses, gradients and parameters of one TopK (with AuxK) and one ReLU coder, by torch autograd in double.

Writes coder_topk.safetensors and coder_relu.safetensors: inputs as fp32, expectations of three steps of
loss, backward, clip, project, Adam, renormalise. usage: make_coder.py [FOLDER]
"""
import os
import sys

import torch
from safetensors.torch import save_file

D, F, B, K, AUX_K, STEPS = 24, 96, 40, 6, 8, 3
ALPHA, L1, CLIP = 1 / 32, 2e-3, 0.05
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
DEAD_AFTER = 1000
NAMES = ["W_enc", "b_enc", "W_dec", "b_dec"]


def start(seed):
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g)
    w_dec = r(F, D)
    w_dec = w_dec / w_dec.norm(dim=1, keepdim=True)
    p = {"W_enc": w_dec + 0.1 * r(F, D), "b_enc": 0.1 * r(F), "W_dec": w_dec, "b_dec": 0.3 * r(D)}
    atoms = torch.nn.functional.normalize(r(2 * D, D), dim=1)
    x = torch.relu(r(STEPS, B, 2 * D) - 1) @ atoms * 2 + 0.1 * r(STEPS, B, D) + 0.5
    since = torch.zeros(F, dtype=torch.int64)
    since[torch.randperm(F, generator=g)[: F // 4]] = 5 * DEAD_AFTER
    v = (x[0] - x[0].mean(0)).pow(2).sum(-1).mean().float()
    return {k: t.float() for k, t in p.items()}, x.float(), since, v


def topk(h, k):
    v, i = h.topk(k, dim=-1)
    ordered = h.sort(dim=-1, descending=True).values
    if h.shape[1] > k:  # the choice must not hang on rounding
        assert (ordered[:, k - 1] - ordered[:, k]).min() > 1e-5
    assert h.abs().min() > 1e-7
    return torch.zeros_like(h).scatter(-1, i, torch.relu(v))


def loss_topk(p, x, v, dead):
    h = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    z = topk(h, K)
    x_hat = z @ p["W_dec"] + p["b_dec"]
    mse = (x - x_hat).pow(2).sum(-1).mean() / v
    aux = torch.zeros((), dtype=torch.float64)
    if dead.any():
        e = (x - x_hat).detach()
        v_e = (e - e.mean(0)).pow(2).sum(-1).mean()
        z_aux = topk(h[:, dead], min(AUX_K, int(dead.sum())))
        aux = ALPHA * (e - z_aux @ p["W_dec"][dead]).pow(2).sum(-1).mean() / v_e
    return mse, torch.zeros((), dtype=torch.float64), aux, z, x_hat


def loss_relu(p, x, v, dead):
    z = torch.relu((x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"])
    x_hat = z @ p["W_dec"] + p["b_dec"]
    return (x - x_hat).pow(2).sum(-1).mean() / v, L1 * z.sum(-1).mean(), torch.zeros((), dtype=torch.float64), z, x_hat


def run(name, loss_of, seed, folder):
    p0, x, since, v = start(seed)
    out = {"start/" + n: t.clone() for n, t in p0.items()}
    out |= {"x": x, "tokens_since_fired": since.clone(), "variance": v.reshape(1)}
    p = {n: t.double().requires_grad_() for n, t in p0.items()}
    opt = torch.optim.Adam([p[n] for n in NAMES], lr=LR, betas=BETAS, eps=EPS)
    figures = []
    for step in range(STEPS):
        xs, dead = x[step].double(), since >= DEAD_AFTER
        opt.zero_grad()
        mse, l1, aux, z, x_hat = loss_of(p, xs, v.double(), dead)
        (mse + l1 + aux).backward()
        grads = [p[n].grad for n in NAMES]
        norm = torch.sqrt(sum(g.pow(2).sum() for g in grads))
        ev = 1 - (xs - x_hat).pow(2).sum() / (xs - xs.mean(0)).pow(2).sum()
        if step == 0:  # before clipping; the decoder's after projection
            w = p["W_dec"].detach()
            for n, g in zip(NAMES, grads):
                g = g.clone()
                out["gradient/" + n] = (g - (g * w).sum(1, keepdim=True) * w if n == "W_dec" else g).float()
        for g in grads:
            g *= min(1.0, CLIP / norm.item())
        with torch.no_grad():
            w = p["W_dec"]
            w.grad -= (w.grad * w).sum(1, keepdim=True) * w
            opt.step()
            w /= w.norm(dim=1, keepdim=True)
        fired = (z > 0).any(0)
        since = torch.where(fired, 0, since + B)
        figures.append([mse.item(), l1.item(), aux.item(), (z > 0).sum(1).double().mean().item(), ev.item(), norm.item(),
                        float(dead.sum()), float(fired.sum())])
    out |= {"end/" + n: t.detach().float() for n, t in p.items()}
    out["end/tokens_since_fired"] = since
    out["figures"] = torch.tensor(figures, dtype=torch.float64)  # mse l1 aux l0 ev norm n_dead n_fired
    save_file({k: t.contiguous() for k, t in out.items()}, os.path.join(folder, f"coder_{name}.safetensors"),
              metadata={"made_by": "make_coder.py", "torch": torch.__version__, "seed": str(seed)})
    print(name, figures)


if __name__ == "__main__":
    here = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    run("topk", loss_topk, 1, here)
    run("relu", loss_relu, 2, here)
