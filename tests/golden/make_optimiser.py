"""Golden steps of the optimisers: Adam and AdamW of torch, schedule-free AdamW of its authors' package, signum and
Muon by their published formulas; in double, from inputs that were rounded to fp32.

Writes optimiser.safetensors: `<case>/w` start [n, d], `<case>/g` gradients [steps, n, d], `<case>/out` parameters after
the last step; `<case>/x` and `<case>/z` of schedule-free; `<case>/directions` [steps, n, d] and `<case>/m` of Muon.
Rates stand in tests/step/test_optimiser.c. usage: make_optimiser.py [FILE]
"""
import importlib.metadata
import os
import sys

import schedulefree
import torch
from safetensors.torch import save_file

STEPS, LR, BETAS, EPS, DECAY = 6, 0.02, (0.9, 0.99), 1e-8, 0.1
tensors = {}


def normals(generator, *shape):
    return torch.randn(*shape, generator=generator).float()


def record(case, **values):
    for name, value in values.items():
        tensors[f"{case}/{name}"] = value.detach().float().contiguous()


def walk(case, make, generator, shape=(5, 19), before=None, after=None):
    """`make` gives an optimiser of one parameter; its gradients are given, not computed."""
    start, gradients = normals(generator, *shape), normals(generator, STEPS, *shape)
    w = torch.nn.Parameter(start.double())
    optimiser = make(w)
    if before:
        before(optimiser)
    for g in gradients.double():
        w.grad = g.clone()
        optimiser.step()
    record(case, w=start, g=gradients, out=w)
    if after:
        after(case, optimiser, w)


def average(case, optimiser, w):
    record(case, z=optimiser.state[w]["z"])
    optimiser.eval()
    record(case, x=w)


def signum(case, generator):
    """Bernstein et al. 2018, algorithm 2, with decoupled weight decay."""
    start, gradients = normals(generator, 5, 19), normals(generator, STEPS, 5, 19)
    gradients[:, 2] = 0  # sign(0) = 0
    w, m = start.double(), torch.zeros(5, 19, dtype=torch.double)
    for g in gradients.double():
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        w = w - LR * DECAY * w - LR * torch.sign(m)
    record(case, w=start, g=gradients, out=w)


def orthogonal(g):
    """Five iterations of the quintic of Jordan et al. 2024."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / g.norm().clamp(min=1e-7)
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def muon(case, shape, generator):
    gradients, m, directions = normals(generator, 3, *shape), torch.zeros(shape, dtype=torch.double), []
    for g in gradients.double():
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        update = BETAS[0] * m + (1 - BETAS[0]) * g
        directions.append(orthogonal(update) * max(1, shape[0] / shape[1]) ** 0.5)
    record(case, g=gradients, directions=torch.stack(directions), m=m)


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "optimiser.safetensors")
    g = torch.Generator().manual_seed(7)
    walk("adam", lambda w: torch.optim.Adam([w], LR, BETAS, EPS), g)
    walk("adamw", lambda w: torch.optim.AdamW([w], LR, BETAS, EPS, weight_decay=DECAY), g)
    signum("signum", g)
    free = lambda w: schedulefree.AdamWScheduleFree([w], LR, BETAS, EPS, weight_decay=DECAY, foreach=False)
    walk("schedule_free", free, g, before=lambda o: o.train(), after=average)
    muon("muon_tall", (33, 12), g)
    muon("muon_wide", (9, 40), g)
    muon("muon_square", (16, 16), g)
    save_file(tensors, out, metadata={"torch": torch.__version__,
                                      "schedulefree": importlib.metadata.version("schedulefree")})
    print(f"{out}: {os.path.getsize(out)} bytes")


if __name__ == "__main__":
    main()
