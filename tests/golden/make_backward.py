"""Golden gradients for the vit layer, by torch autograd in double precision, of the tiny models of
make_vit.py.

Run: python make_backward.py [NAME...]     writes backward/NAME.safetensors beside this file

Each case is a model of vit/, made again here and checked against the file that lies there. The
scalar is sum(direction("embedding") * embedding) + sum(direction("logits") * logits), where
direction(key)[i] are numbers that the test makes again (see `direction`). A file holds
  weights [n_tensors, K]  for tensor t of the model's file, in the order of names: the gradient by it
                          times K directions; 0 where the output does not depend on it
  input [K]               the same for the input
  d_input, d_points       for a few models: gradients by the input and at hook points, in full
Needs torch, transformers, timm, open_clip and safetensors.
"""

import pathlib
import sys
import tempfile

import numpy
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import make_vit  # noqa: E402
import reference  # noqa: E402  (make_vit says where it lies)

N_DIRECTIONS = 8
MIX = numpy.uint64(0x9E3779B97F4A7C15)
# Models whose gradients are stored in full, and at which points.
IN_FULL = ("clip_projection", "vit", "dinov2")
POINTS = ("hook_full_embed", "hook_ln_pre", "hook_resid_pre", "ln1.hook_normalized", "attn.hook_q",
          "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z",
          "hook_attn_out", "hook_resid_mid", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post",
          "hook_mlp_out", "hook_resid_post")


def direction(key, n):
    """n numbers in [-1, 1) on a grid of 2^-23: the bits of splitmix64 at key * 2^40 + i."""
    with numpy.errstate(over="ignore"):
        z = (numpy.uint64(key) << numpy.uint64(40)) + numpy.arange(n, dtype=numpy.uint64)
        z = (z + numpy.uint64(1)) * MIX
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    return torch.from_numpy((z >> numpy.uint64(40)).astype(numpy.float64) / 2.0**23 - 1.0)


KEY_EMBEDDING, KEY_LOGITS, KEY_INPUT, KEY_WEIGHTS = 1, 2, 16, 64  # + which direction, for the last
# two; of tensor t: KEY_WEIGHTS + t * N_DIRECTIONS + which


def sketch(gradient, first_key):
    flat = gradient.reshape(-1).double()
    return torch.stack([flat @ direction(first_key + j, flat.numel()) for j in range(N_DIRECTIONS)])


def stored_tensors(folder):
    """What lies in the model's folder, by name."""
    files = sorted(folder.rglob("model*.safetensors")) or sorted(
        folder.rglob("open_clip*.safetensors"))
    if files:
        found = {}
        for file in files:
            found |= safetensors.torch.load_file(file)
        return found
    file = next(f for pattern in ("*.bin", "*.pth") for f in sorted(folder.glob(pattern)))
    return dict(flat(torch.load(file, weights_only=True), ""))


def flat(tree, at):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{at}{key}.")
        elif isinstance(value, torch.Tensor):
            yield f"{at}{key}", value


def places_of(p, stored):
    """(tensor, first row) of stored tensors that p's values are, or are some rows of."""
    for i, t in enumerate(stored.values()):
        if t.dim() == p.dim() and t.shape[1:] == p.shape[1:]:
            for row in range(0, len(t) - len(p) + 1, len(p)):
                if torch.equal(t[row:row + len(p)].double(), p.detach()):
                    yield i, row


def gradients_by_file(model, stored):
    """The gradient by each stored tensor, as whose parameter it is known by its values."""
    grads = [torch.zeros(t.shape, dtype=torch.float64) for t in stored.values()]
    for name, p in model.named_parameters():
        if p.grad is None or not p.grad.any():
            continue
        places = list(places_of(p, stored))
        assert len(places) == 1, f"{name}: found in {len(places)} places of the file"
        i, row = places[0]
        grads[i][row:row + len(p)] += p.grad
    return grads


class Watch(reference.Recorder):
    """Keeps the gradient at hook points: as edits that change nothing but are gone through."""

    def __init__(self, prefixes):
        super().__init__({prefix + name: None for prefix in prefixes for name in POINTS})
        self.edits = {name: self.kept_at(name) for name in self.edits}
        self.kept = {}

    def kept_at(self, name):
        def edit(value):
            value = value * 1.0
            value.retain_grad()
            self.kept[name] = value
            return value
        return edit


    def gradients(self):
        """hook_resid_mid is seen on its way into the norm; past it goes what resid_post gets."""
        grads = {at: v.grad for at, v in self.kept.items() if v.grad is not None}
        for at in [at for at in grads if at.endswith("hook_resid_mid")]:
            grads[at] = grads[at] + grads[at.replace("_mid", "_post")]
        return grads


def differentiate(model, library, family, x, tower, watch):
    known = reference.adapter(model, library, family, tower)
    for p in model.parameters():
        p.requires_grad_(True)
        p.grad = None
    if x.is_floating_point():
        x = x.double().requires_grad_(True)
    with watch:
        if watch.edits:
            known.attach(watch)
        _, embedding, logits = known.run(x)
    scalar = (embedding.flatten() * direction(KEY_EMBEDDING, embedding.numel())).sum()
    if logits is not None:
        scalar = scalar + (logits.flatten() * direction(KEY_LOGITS, logits.numel())).sum()
    scalar.backward()
    return scalar, x


def write_case(path, model, library, family, x, tower="vision", edits=None, keep=None):
    name = path.parent.name + path.stem.removeprefix("reference")
    folder = make_vit.HERE / "vit" / path.parent.name
    stored = dict(sorted(stored_tensors(folder).items()))
    in_full = name in IN_FULL
    blocks = [""] + [f"blocks.{i}." for i in range(8)]
    watch = Watch(blocks if in_full else [])
    scalar, x = differentiate(model.double(), library, family, x, tower, watch)
    grads = gradients_by_file(model, stored)
    found = {"weights": torch.stack(
        [sketch(g, KEY_WEIGHTS + i * N_DIRECTIONS) for i, g in enumerate(grads)]),
        "scalar": scalar.detach().reshape(1)}
    if x.is_floating_point():
        found["input"] = sketch(x.grad, KEY_INPUT)
    if in_full:
        found["d_input"] = x.grad
        found |= {f"d_points/{at}": g for at, g in watch.gradients().items()}
    found = {k: v.float().contiguous() for k, v in found.items()}
    found["weights"], found["scalar"] = found["weights"].double(), found["scalar"].double()
    versions = {lib: sys.modules[lib].__version__ for lib in ("torch", library)
                if lib in sys.modules}
    safetensors.torch.save_file(found, HERE / "backward" / f"{name}.safetensors", metadata={
        **versions, "tower": tower, "made_by": "make_backward.py"})
    n_zero = sum(not g.any() for g in grads)
    print(f"{name:32} {len(grads):4} tensors, {n_zero:3} without gradient, "
          f"{len(watch.kept):3} points")


def main(names):
    torch.set_num_threads(1)
    (HERE / "backward").mkdir(exist_ok=True)
    make_vit.write_reference = write_case
    with tempfile.TemporaryDirectory() as scratch:
        make_vit.OUT = pathlib.Path(scratch)
        for name in names or make_vit.GOLDENS:
            make_vit.seeded(name)
            make_vit.GOLDENS[name](name)


if __name__ == "__main__":
    main(sys.argv[1:])
