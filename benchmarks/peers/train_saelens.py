"""SAELens (PyPI sae-lens): its TopKTrainingSAE in its SAETrainer, step by step.

Start: its own, W_enc the transpose of W_dec, rows of norm 0.1, b_dec zeros; data scaled as its
expected_average_only_in does (mean norm sqrt(width))."""

import sys

from common import Work

work = Work(sys.argv)

import torch
from sae_lens import SAETrainer
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

o = work.options
sae = TopKTrainingSAE(
    TopKTrainingSAEConfig(d_in=work.width, d_sae=o.latents, k=o.k, aux_loss_coefficient=o.aux,
                          normalize_activations="expected_average_only_in", device="cpu", dtype="float32")
)
config = SAETrainerConfig(
    total_training_samples=o.batch * o.steps,
    train_batch_size_samples=o.batch,
    lr=o.lr,
    lr_end=o.lr * 1e-3,
    lr_scheduler_name="constant",
    lr_warm_up_steps=o.warmup,
    lr_decay_steps=int(o.decay_share * o.steps),
    dead_feature_window=o.dead_after // o.batch,
    device="cpu",
    logger=LoggingConfig(log_to_wandb=False),
)
trainer = SAETrainer(config, sae, iter(()))
scale = work.width**0.5 / float(work.sample().norm(dim=1).mean())
trainer.activation_scaler.scaling_factor = scale


def step(x):
    trainer.step(x)
    trainer.n_training_steps += 1


def reconstruct(x):
    acts = sae.encode(x * scale)
    return sae.decode(acts) / scale, (acts > 0).sum(1)


work.fit(step, reconstruct, lambda: int(trainer.dead_neurons.sum()))
