"""Golden losses, gradients and parameters of coders of every architecture, by torch autograd in double.

Writes coder_<case>.safetensors: inputs as fp32, expectations of three steps of loss, backward, clip, project, Adam,
renormalise. The losses are written from the papers' equations; tests/step/test_gradients_torch.c says with which settings a
coder must come to the same. usage: make_coder.py [FOLDER]
"""
import os
import sys

import torch
from safetensors.torch import save_file

D, F, B, K, AUX_K, STEPS, POINTS = 12, 48, 24, 4, 6, 3, 7
CLIP, LR, BETAS, EPS = 0.05, 1e-3, (0.9, 0.999), 1e-8
DEAD_AFTER = 1000
ALPHA, L1, L0, TANH, PRE, P, SECOND = 1 / 32, 2e-3, 1e-3, 1.5, 0.03, 0.5, 1 / 8
BANDWIDTH, TARGET = 0.5, 6
f64 = torch.float64


# ---- straight-through estimators (Rajamanoharan et al. 2024, equations 11 and 12; a rectangle as kernel) ----------------
class JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, theta, to_input):
        ctx.save_for_backward(h, theta)
        ctx.to_input = to_input
        return h * (h > theta)

    @staticmethod
    def backward(ctx, g):
        h, theta = ctx.saved_tensors
        near = ((h - theta).abs() < BANDWIDTH / 2) * theta / BANDWIDTH
        return g * ((h > theta) + (near if ctx.to_input else 0)), (-near * g).sum(0), None


class Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, theta):
        ctx.save_for_backward(h, theta)
        return (h > theta).to(h.dtype)

    @staticmethod
    def backward(ctx, g):
        h, theta = ctx.saved_tensors
        return None, -(((h - theta).abs() < BANDWIDTH / 2) / BANDWIDTH * g).sum(0)


# ---- pieces --------------------------------------------------------------------------------------------------------------
def clear_choice(h, k):
    """The choice must not hang on rounding."""
    ordered = h.sort(dim=-1, descending=True).values
    if h.shape[-1] > k:
        assert (ordered[..., k - 1] - ordered[..., k]).min() > 2e-5
    assert h.abs().min() > 1e-7


def clear_window(h, theta):
    for edge in (theta, theta - BANDWIDTH / 2, theta + BANDWIDTH / 2):
        assert (h - edge).abs().min() > 1e-5


def topk(h, k):
    clear_choice(h, k)
    v, i = h.topk(k, dim=-1)
    return torch.zeros_like(h).scatter(-1, i, torch.relu(v))


def batch_topk(h, k):
    return topk(h.reshape(-1), k * h.shape[0]).reshape(h.shape)


def norms(w, case):
    """Of decoder rows: the sum over sites (Lindsey et al. 2024)."""
    return sum(part.norm(dim=1) for part in w.split(case.get("sites", [w.shape[1]]), dim=1))


def pre(p, seen):
    return seen @ p["W_enc"].T + p["b_enc"]


def decode(p, z, seen):
    return z @ p["W_dec"] + p["b_dec"] + (seen @ p["W_skip"].T if "W_skip" in p else 0)


def error(y, y_hat):
    return (y - y_hat).pow(2).sum(-1).mean()


# ---- losses: values that are decoded, and terms beside |y - y_hat|^2 / V --------------------------------------------------
def relu(p, h, y, seen, v, case):
    z = torch.relu(h)
    w = norms(p["W_dec"], case) if case.get("by_norm") else 1
    return z, {"sparsity": L1 * (w * z).sum(-1).mean()}


def relu_lp(p, h, y, seen, v, case):
    """The norm itself, with its root, as Prisma and SAELens have it; p < 1."""
    z = torch.relu(h)
    assert z[z > 0].min() > 3e-4  # its derivative falls as 1 / sqrt(z)
    return z, {"sparsity": L1 * torch.stack([row[row > 0].pow(P).sum().pow(1 / P) for row in z]).mean()}


def relu_tanh(p, h, y, seen, v, case):
    """Anthropic, January 2025, on a ReLU coder."""
    z = torch.relu(h)
    return z, {"sparsity": L1 * torch.tanh(TANH * z).sum(-1).mean()}


def p_anneal(p, h, y, seen, v, case):
    z = torch.relu(h)
    return z, {"sparsity": L1 * z[z > 0].pow(P).sum() / h.shape[0]}


def of_topk(p, h, y, seen, v, case):
    return topk(h, K), {}


def multi_topk(p, h, y, seen, v, case):
    z4 = topk(h, 4 * K)
    return topk(h, K), {"extra": SECOND * error(y, decode(p, z4, seen)) / v}


def of_batch_topk(p, h, y, seen, v, case):
    return batch_topk(h, K), {}


def matryoshka(p, h, y, seen, v, case):
    z = batch_topk(h, K)
    ends = [F >> 3, F >> 2, F >> 1, F]
    errors = [error(y, z[:, :n] @ p["W_dec"][:n] + p["b_dec"]) / v for n in ends]
    return z, {"extra": sum(errors) / len(errors) - errors[-1]}


def jumprelu(p, h, y, seen, v, case):
    theta = p["log_threshold"].exp()
    return JumpReLU.apply(h, theta, False), {"sparsity": L0 * Count.apply(h, theta).sum(-1).mean()}


def jumprelu_target_l0(p, h, y, seen, v, case):
    """Rajamanoharan et al. 2024b, section 5: (L0 / target - 1)^2 of the batch's mean L0."""
    theta = p["log_threshold"].exp()
    clear_window(h, theta)
    mean_l0 = Count.apply(h, theta).sum(-1).mean()
    assert (mean_l0 / TARGET - 1).abs() > 0.1
    return JumpReLU.apply(h, theta, False), {"sparsity": L0 * (mean_l0 / TARGET - 1).pow(2)}


def jumprelu_pre_activation(p, h, y, seen, v, case):
    """The paper's coder with Anthropic's term (January 2025) for dead latents; one that fires again is not dead."""
    theta = p["log_threshold"].exp()
    clear_window(h, theta)
    fires = (h > theta).any(0)
    assert (case["dead"] & ~fires).sum() > 2 and (case["revived"] or (case["dead"] & fires).sum() > 2)
    case["revived"].append(True)
    below = torch.relu(theta - h)[:, case["dead"] & ~fires]  # decoder norms are 1 by constraint, not variables
    return JumpReLU.apply(h, theta, False), {"sparsity": L0 * Count.apply(h, theta).sum(-1).mean()
                                             + PRE * below.sum(-1).mean()}


def jumprelu_tanh(p, h, y, seen, v, case):
    """Anthropic, January 2025: the window's gradient for all parameters, decoder norms in both penalties."""
    theta, w = p["log_threshold"].exp(), norms(p["W_dec"], case)
    z = JumpReLU.apply(h, theta, True)
    silent = case["dead"] & ~(h > theta).any(0)
    assert silent.sum() > 2
    return z, {"sparsity": L1 * torch.tanh(TANH * w * z).sum(-1).mean()
               + PRE * (torch.relu(theta - h) * w)[:, silent].sum(-1).mean()}


def gated(p, h, y, seen, v, case):
    """Rajamanoharan et al. 2024a, equations 7 to 9: weights of the magnitudes are exp(r) times the gate's."""
    magnitude = torch.relu(p["gain"].exp() * (h - p["b_enc"]) + p["b_mag"])
    gate = torch.relu(h)
    frozen = {n: t.detach() for n, t in p.items()}
    aux = error(case["y"], decode(frozen, gate, seen.detach())) / v
    return (h > 0) * magnitude, {"sparsity": L1 * gate.sum(-1).mean(), "extra": aux}


def aux_k(p, h, e, dead, mse):
    """Gao et al. 2024, appendix A.2: dead latents explain the residual, without bias."""
    e = e.detach()
    z = topk(h[:, dead], min(AUX_K, int(dead.sum())))
    return ALPHA * error(e, z @ p["W_dec"][dead]) / (e - e.mean(0)).pow(2).sum(-1).mean()


def ghost(p, h, e, dead, mse):
    """Anthropic, January 2024."""
    e = e.detach()
    e_hat = h[:, dead].exp() @ p["W_dec"][dead]
    e_hat = e_hat * (e.norm(dim=1, keepdim=True) / (2 * e_hat.norm(dim=1, keepdim=True))).detach()
    loss = error(e, e_hat)
    return loss * (mse / loss).detach()


def ghost_prisma(p, h, e, dead, mse):
    """Prisma's code: every element's error, over the norm of the token's centred residual, is scaled to the main loss
    by itself, so that its gradient is near that of a logarithm."""
    e = e.detach()
    e_hat = h[:, dead].exp() @ p["W_dec"][dead]
    e_hat = e_hat * (e.norm(dim=1, keepdim=True) / (1e-6 + 2 * e_hat.norm(dim=1, keepdim=True))).detach()
    off = (e_hat - e).pow(2) / (e - e.mean(0)).norm(dim=1, keepdim=True)
    assert off.min() > 1e-5  # that of an element near 0 hangs on rounding
    return (off * (mse / (off + 1e-6)).detach()).mean()


CASES = {
    "topk": {"loss": of_topk, "dead_term": aux_k},
    "multi_topk": {"loss": multi_topk},
    "batch_topk": {"loss": of_batch_topk, "dead_term": aux_k},
    "matryoshka": {"loss": matryoshka, "dead_term": aux_k},
    "relu": {"loss": relu},
    "p_anneal": {"loss": p_anneal},
    "jumprelu": {"loss": jumprelu},
    "jumprelu_tanh": {"loss": jumprelu_tanh, "free": True, "by_norm": True},
    "gated": {"loss": gated},
    "ghost": {"loss": relu, "dead_term": ghost},
    "skip_transcoder": {"loss": of_topk, "dead_term": aux_k, "target": True},
    "crosscoder": {"loss": relu, "free": True, "by_norm": True, "sites": [5, 7], "no_subtract": True},
    "archetypal": {"loss": of_topk},
    "relu_lp": {"loss": relu_lp},
    "relu_tanh": {"loss": relu_tanh},
    "jumprelu_target_l0": {"loss": jumprelu_target_l0},
    "jumprelu_pre_activation": {"loss": jumprelu_pre_activation},
    "ghost_prisma": {"loss": relu, "dead_term": ghost_prisma},
}


# ---- a run ---------------------------------------------------------------------------------------------------------------
def rows(r, n):
    atoms = torch.nn.functional.normalize(r(2 * D, D), dim=1)
    return torch.relu(r(STEPS, n, 2 * D) - 1) @ atoms * 2 + 0.1 * r(STEPS, n, D) + 0.5


def start(name, case, seed):
    g = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(*shape, generator=g)
    w_dec = r(F, D)
    w_dec = w_dec / w_dec.norm(dim=1, keepdim=True)
    p = {"W_enc": w_dec + 0.1 * r(F, D), "b_enc": 0.1 * r(F), "W_dec": w_dec * (0.7 if case.get("free") else 1), "b_dec": 0.3 * r(D)}
    x = rows(r, B)
    if case.get("target"):
        x = torch.cat([x, torch.tanh(x @ r(D, D) / D**0.5)], -1)
        p["W_skip"] = 0.2 * r(D, D)
    since = torch.zeros(F, dtype=torch.int64)
    since[torch.randperm(F, generator=g)[: F // 4]] = 5 * DEAD_AFTER
    if "jumprelu" in name:
        p["log_threshold"] = 0.2 * r(F) - 1
        silent = since > 0
        if name == "jumprelu_pre_activation":  # some come back by themselves
            silent[F // 2 :] = False
            case["revived"] = []
        p["b_enc"][silent] -= 9  # they stay silent
    if name == "gated":
        p["gain"], p["b_mag"] = 0.2 * r(F), 0.1 * r(F)
    if name == "archetypal":
        p["archetypes"] = torch.softmax(2 * r(F, POINTS), -1)
        p["archetype_offsets"] = 0.1 * r(F, D)
        p["archetype_scale"] = torch.tensor([0.2])
        case["points"] = r(POINTS, D)
        del p["W_dec"]
    y = x[0, :, -D:]
    v = (y - y.mean(0)).pow(2).sum(-1).mean().float()
    return {n: t.float() for n, t in p.items()}, x.float(), since, v


def with_decoder(p, case):
    """Fel et al. 2025: exp(m) (W C + Lambda)."""
    if "points" not in case:
        return p
    w = p["archetype_scale"].exp() * (p["archetypes"] @ case["points"].double() + p["archetype_offsets"])
    return p | {"W_dec": w}


def loss_of(p, case, x, v, dead):
    p = with_decoder(p, case)
    y = x[:, -D:]
    is_seen_less = not case.get("no_subtract") and not case.get("target")
    seen = x[:, :D] - (p["b_dec"] if is_seen_less else 0)
    h = pre(p, seen)
    z, terms = case["loss"](p, h, y, seen, v, case | {"dead": dead, "y": y.detach()})
    y_hat = decode(p, z, seen)
    zero = torch.zeros((), dtype=f64)
    mse = error(y, y_hat) / v
    aux = case["dead_term"](p, h, y - y_hat, dead, mse.detach()) if "dead_term" in case and dead.any() else zero
    return {"mse": mse, "sparsity": zero, "aux": aux, "extra": zero} | terms, z, y, y_hat


def unit_normal(w, case):
    """The normal of sum of sites' norms = 1, of length 1."""
    parts = w.split(case.get("sites", [w.shape[1]]), dim=1)
    n = torch.cat([part / part.norm(dim=1, keepdim=True) for part in parts], 1)
    return n / len(parts) ** 0.5


def apply_rules(p, case):
    if "W_dec" in p and not case.get("free"):
        p["W_dec"] /= norms(p["W_dec"], case)[:, None]
    if "archetypes" in p:
        a = torch.relu(p["archetypes"])
        p["archetypes"].copy_(a / a.sum(1, keepdim=True))
        n = p["archetype_offsets"].norm(dim=1, keepdim=True)
        p["archetype_offsets"] /= torch.clamp(n, min=1.0)


def run(name, case, seed, folder):
    p0, x, since, v = start(name, case, seed)
    out = {"start/" + n: t.clone() for n, t in p0.items()}
    out |= {"x": x, "tokens_since_fired": since.clone(), "variance": v.reshape(1)}
    if "points" in case:
        case["points"] = case["points"].float()
        out["points"] = case["points"]
    p = {n: t.double().requires_grad_() for n, t in p0.items()}
    opt = torch.optim.Adam(list(p.values()), lr=LR, betas=BETAS, eps=EPS)
    figures = []
    for step in range(STEPS):
        dead = since >= DEAD_AFTER
        opt.zero_grad()
        terms, z, y, y_hat = loss_of(p, case, x[step].double(), v.double(), dead)
        sum(terms.values()).backward()
        norm = torch.sqrt(sum(t.grad.pow(2).sum() for t in p.values()))
        ev = 1 - (y - y_hat).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
        with torch.no_grad():
            if "W_dec" in p and not case.get("free"):
                n = unit_normal(p["W_dec"], case)
                along = (p["W_dec"].grad * n).sum(1, keepdim=True) * n
            else:
                along = 0
            if step == 0:  # before clipping; the decoder's after projection
                for k, t in p.items():
                    out["gradient/" + k] = (t.grad - (along if k == "W_dec" else 0)).float()
            factor = min(1.0, CLIP / norm.item())
            for k, t in p.items():
                t.grad = (t.grad - (along if k == "W_dec" else 0)) * factor
            opt.step()
            apply_rules(p, case)
        fired = (z > 0).any(0)
        since = torch.where(fired, 0, since + B)
        figures.append([terms[n].item() for n in ("mse", "sparsity", "aux", "extra")]
                       + [(z > 0).sum(1).double().mean().item(), ev.item(), norm.item(), float(dead.sum()), float(fired.sum())])
    out |= {"end/" + n: t.detach().float() for n, t in p.items()}
    out["end/tokens_since_fired"] = since
    out["figures"] = torch.tensor(figures, dtype=f64)  # mse sparsity aux extra l0 ev norm n_dead n_fired
    save_file({k: t.contiguous() for k, t in out.items()}, os.path.join(folder, f"coder_{name}.safetensors"),
              metadata={"made_by": "make_coder.py", "torch": torch.__version__, "seed": str(seed)})
    print(name, *(f"{f:.6g}" for f in figures[0]))


if __name__ == "__main__":
    here = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for number, (case_name, settings) in enumerate(CASES.items()):
        for attempt in range(100):  # until no choice hangs on rounding
            try:
                run(case_name, dict(settings), 100 * (number + 1) + attempt, here)
                break
            except AssertionError:
                continue
        else:
            raise SystemExit(f"{case_name}: no seed")
