"""What the trainers of this folder share: the batches, the figure, the file.

Each is called as

    train_X.py DIR OUT.csv [key=value ...]

with DIR as prepare.py left it and the keys of `Options`, and writes the columns of bench_peers.
"""

import csv
import dataclasses
import os
import sys
import time

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # before the packages are imported
os.environ["WANDB_MODE"] = "disabled"

import numpy as np
import torch


@dataclasses.dataclass
class Options:
    latents: int = 3072
    k: int = 32
    lr: float = 1e-3
    steps: int = 400
    batch: int = 2048
    warmup: int = 20
    decay_share: float = 0.2  # of the steps at the end, linearly to 0
    every: int = 25
    dead_after: int = 150_000  # tokens without firing
    aux: float = 1 / 32  # weight of the tool's own auxiliary loss
    optimiser: str = "adam"
    threads: int = 2
    seed: int = 0


def explained_variance(x, x_hat):
    """1 - sum |x - x_hat|^2 / sum |x - mean|^2 over all rows, in double."""
    x, x_hat = x.double(), x_hat.double()
    return float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


class Work:
    def __init__(self, argv):
        self.folder, self.out = argv[1:3]
        kinds = {f.name: f.type for f in dataclasses.fields(Options)}
        given = dict(a.split("=", 1) for a in argv[3:])
        self.options = o = Options(**{k: kinds[k](v) for k, v in given.items()})
        torch.set_num_threads(o.threads)
        torch.manual_seed(o.seed)
        self.train = torch.from_numpy(np.load(f"{self.folder}/train.npy"))
        self.held_out = torch.from_numpy(np.load(f"{self.folder}/held_out.npy"))
        self.order = torch.from_numpy(np.load(f"{self.folder}/order.npy").astype(np.int64))
        self.width = self.train.shape[1]

    def sample(self, n=8192):
        return self.train[self.order[:n]]

    def batches(self):
        n = self.options.batch
        for i in range(self.options.steps):
            yield self.train[self.order[i * n : (i + 1) * n]]

    @torch.no_grad()
    def _look(self, reconstruct):
        """`reconstruct`: rows to their reconstruction and the number of active latents of each."""
        parts = [reconstruct(x) for x in self.held_out.split(1024)]
        x_hat = torch.cat([p[0] for p in parts])
        l0 = torch.cat([p[1] for p in parts]).double().mean()
        return explained_variance(self.held_out, x_hat), float(l0)

    def fit(self, step, reconstruct, count_dead):
        o, seconds = self.options, 0.0
        with open(self.out, "w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["step", "tokens", "ev", "l0", "dead", "seconds"])
            for i, x in enumerate(self.batches(), 1):
                start = time.perf_counter()
                step(x)
                seconds += time.perf_counter() - start
                if i % o.every == 0 or i == o.steps:
                    ev, l0 = self._look(reconstruct)
                    table.writerow([i, i * o.batch, f"{ev:.5f}", f"{l0:.2f}", count_dead(), f"{seconds:.1f}"])
                    file.flush()


def check(folder, reconstruction):
    """The same formula over what bench_peers reconstructed, beside the figure in its table."""
    from safetensors.torch import load_file

    x = torch.from_numpy(np.load(f"{folder}/held_out.npy"))
    print(f"{explained_variance(x, load_file(reconstruction)['x_hat']):.5f}")


if __name__ == "__main__":
    check(*sys.argv[1:])
