"""dictionary_learning (PyPI dictionary-learning): its TopKTrainer, data scaled as its
normalize_activations does (mean square norm 1).

Start: its own, unit decoder rows, W_enc the transpose of W_dec, b_dec the geometric median of the
first batch. Its package imports nnsight for language models; an empty stand-in does."""

import sys
import types

stand_in = types.ModuleType("nnsight")
stand_in.LanguageModel = object
sys.modules.setdefault("nnsight", stand_in)

from common import Work

work = Work(sys.argv)

from dictionary_learning.trainers.top_k import TopKTrainer

o = work.options
trainer = TopKTrainer(
    steps=o.steps,
    activation_dim=work.width,
    dict_size=o.latents,
    k=o.k,
    layer=0,
    lm_name="none",
    lr=o.lr,
    auxk_alpha=o.aux,
    warmup_steps=o.warmup,
    decay_start=int((1 - o.decay_share) * o.steps),
    seed=o.seed,
    device="cpu",
)
trainer.dead_feature_threshold = o.dead_after
scale = float(work.sample().square().sum(1).mean() ** -0.5)
count = 0


def step(x):
    global count
    trainer.update(count, x * scale)
    count += 1


def reconstruct(x):
    acts = trainer.ae.encode(x * scale)
    return trainer.ae.decode(acts) / scale, (acts > 0).sum(1)


work.fit(step, reconstruct, lambda: int((trainer.num_tokens_since_fired >= o.dead_after).sum()))
