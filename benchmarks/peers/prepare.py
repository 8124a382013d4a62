"""Activations as every tool of this folder reads them, and one order for all.

usage: prepare.py TRAIN.safetensors HELD_OUT.safetensors HOOK DIR ROWS [SEED]

The first two come from `refract activations`. Writes DIR/train.npy and DIR/held_out.npy (fp32,
[tokens, width]) and DIR/order.npy (int32 [>= ROWS]): epochs one after the other, each the numbers
of all training tokens in an order of its own.
"""

import sys

import numpy as np
from safetensors.numpy import load_file


def rows(path, hook):
    x = load_file(path)[hook]
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]), dtype=np.float32)


def main(train, held_out, hook, folder, n_rows, seed="0"):
    x, y = rows(train, hook), rows(held_out, hook)
    draw = np.random.default_rng(int(seed))
    epochs = -(-int(n_rows) // len(x))
    order = np.concatenate([draw.permutation(len(x)) for _ in range(epochs)])
    np.save(f"{folder}/train.npy", x)
    np.save(f"{folder}/held_out.npy", y)
    np.save(f"{folder}/order.npy", order.astype(np.int32))
    norm = np.sqrt((x.astype(np.float64) ** 2).sum(1))
    print(f"{x.shape} to train, {y.shape} held out; norms: mean {norm.mean():.2f}, median {np.median(norm):.2f}, "
          f"most {norm.max():.2f}; of the mean token {np.linalg.norm(x.mean(0)):.2f}; {epochs} epochs")


if __name__ == "__main__":
    main(*sys.argv[1:])
