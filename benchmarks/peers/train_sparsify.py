"""EleutherAI's sparsify (PyPI eai-sparsify): its SparseCoder, and around it what its Trainer.fit does
for one hook point, whose batches come out of a language model and so cannot be given from outside.

optimiser=adam is its Adam with a linear schedule, optimiser=signum its default (schedule-free).
Start: its own, rows of W_dec are those of nn.Linear made unit, W_enc is left as long as nn.Linear
makes it; b_dec the mean of the first batch."""

import sys

from common import Work

work = Work(sys.argv)

import torch
from sparsify.config import SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from sparsify.sparse_coder import SparseCoder

o = work.options
sae = SparseCoder(work.width, SparseCoderConfig(num_latents=o.latents, k=o.k), dtype=torch.float32)
if o.optimiser == "signum":
    from schedulefree import ScheduleFreeWrapper

    opt = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=o.lr), momentum=0.95)
    opt.train()
    schedule = None
else:
    from transformers import get_linear_schedule_with_warmup

    opt = torch.optim.Adam(sae.parameters(), lr=o.lr)
    schedule = get_linear_schedule_with_warmup(opt, o.warmup, o.steps)
since = torch.zeros(o.latents, dtype=torch.long)
started = False


def step(x):
    global started
    if not started:
        sae.b_dec.data = x.mean(0)
        started = True
    sae.set_decoder_norm_to_unit_norm()
    out = sae(x, dead_mask=since > o.dead_after if o.aux > 0 else None)
    (out.fvu + o.aux * out.auxk_loss).backward()
    sae.remove_gradient_parallel_to_decoder_directions()
    opt.step()
    opt.zero_grad()
    if schedule is not None:
        schedule.step()
    since.add_(len(x))
    since[out.latent_indices.flatten()] = 0


def reconstruct(x):
    acts, indices, _ = sae.encode(x)
    return sae.decode(acts, indices), (acts > 0).sum(1)


def look(x):
    if o.optimiser != "signum":
        return reconstruct(x)
    opt.eval()  # the average of the iterates
    result = reconstruct(x)
    opt.train()
    return result


work.fit(step, look, lambda: int((since > o.dead_after).sum()))
