"""Golden gradients of the dense operations, by torch autograd in double; inputs are rounded to fp32 first.

Writes dense_grad.safetensors: `<case>/<name>` for inputs, `<case>/d_<name>` for the gradient of sum(d_y * y) by an
input, `<case>/y` for the output. usage: make_dense_grad.py [FILE]
"""
import os
import sys

import torch
import torch.nn.functional as nn
from safetensors.torch import save_file

tensors = {}


def normals(generator, *shape):
    return torch.randn(*shape, generator=generator).float()


def record(case, function, inputs, generator):
    """One case: y = function(**inputs), gradients of sum(d_y * y)."""
    doubles = {k: v.double().requires_grad_() for k, v in inputs.items()}
    y = function(**doubles)
    d_y = normals(generator, *y.shape)
    (y * d_y.double()).sum().backward()
    out = {**inputs, "y": y, "d_y": d_y, **{"d_" + k: v.grad for k, v in doubles.items() if v.grad is not None}}
    for name, value in out.items():
        value = value.detach().float()
        tensors[f"{case}/{name}"] = value.contiguous()


def attention(q, k, v, bias):
    heads = lambda x: x.transpose(1, 2)  # [B, T, H, dh] to [B, H, T, dh]
    return nn.scaled_dot_product_attention(heads(q), heads(k), heads(v), attn_mask=bias[None], scale=0.4).transpose(1, 2)


def causal(q, k, v):
    heads = lambda x: x.transpose(1, 2)
    return nn.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True, scale=0.4).transpose(1, 2)


def turned_by(angles, x, adjacent):
    """Rotary positions as a product of complex numbers; angles [T, dh / 2]."""
    t = torch.polar(torch.ones_like(angles), angles)[None, :, None]
    a, b = (x[..., 0::2], x[..., 1::2]) if adjacent else x.chunk(2, -1)
    z = torch.complex(a, b) * t
    return torch.stack([z.real, z.imag], -1).flatten(-2) if adjacent else torch.cat([z.real, z.imag], -1)


ACTS = {"relu": nn.relu, "gelu": nn.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu_tanh": lambda x: nn.gelu(x, approximate="tanh"), "silu": nn.silu}


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "dense_grad.safetensors")
    g = torch.Generator().manual_seed(4)
    record("layer_norm", lambda x, weight, bias: nn.layer_norm(x, (37,), weight, bias, 1e-6),
           {"x": 2 * normals(g, 70, 37) + 1, "weight": normals(g, 37), "bias": normals(g, 37)}, g)
    shape = lambda t: (2, t, 3, 8)
    record("attention", attention, {"q": normals(g, *shape(5)), "k": normals(g, *shape(11)), "v": normals(g, *shape(11)),
                                    "bias": normals(g, 3, 5, 11)}, g)
    record("causal", causal, {n: normals(g, *shape(9)) for n in "qkv"}, g)
    for name, act in ACTS.items():
        record(f"act_{name}", lambda x: act(x), {"x": 3 * normals(g, 4, 50)}, g)
        record(f"gated_{name}", lambda gate, x: act(gate) * x, {"gate": 2 * normals(g, 4, 50), "x": normals(g, 4, 50)}, g)
    angles = 3 * torch.rand(7, 4, generator=g).float()
    for name, adjacent in [("adjacent", True), ("halves", False)]:
        record(f"rotary_{name}", lambda x: turned_by(angles.double(), x, adjacent), {"x": normals(g, 2, 7, 3, 8)}, g)
        spread = torch.repeat_interleave(angles, 2, -1) if adjacent else torch.cat([angles, angles], -1)
        tensors[f"rotary_{name}/cos"] = spread.double().cos().float()
        tensors[f"rotary_{name}/sin"] = spread.double().sin().float()
    record("tubelets", lambda images, weight: nn.conv3d(images.transpose(1, 2), weight, stride=(2, 3, 3)),
           {"images": normals(g, 2, 5, 3, 7, 9), "weight": normals(g, 6, 3, 2, 3, 3)}, g)
    save_file(tensors, out, metadata={"torch": torch.__version__})


if __name__ == "__main__":
    main()
