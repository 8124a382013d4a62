"""Pictures of docs/comparison.md out of the tables that bench_peers and peers/train_*.py write.

usage: plot_curves.py peers OUT.png LABEL=FILE.csv ...      explained variance against tokens
       plot_curves.py ev-l0 OUT.png NAME=FILE.csv ...       last line of each; one curve a NAME
"""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6bb1"]
MARKS = "osD^vPX*"


def table(path):
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def finish(figure, axes, out):
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=130, metadata={"Software": None})


def peers(out, pairs):
    """Left all of training; right its end, where the tools part."""
    figure, (whole, end) = plt.subplots(1, 2, figsize=(10, 4.4))
    late = []
    for i, (label, path) in enumerate(pairs):
        rows = [r for r in table(path) if r["step"] > 0]
        x, y = [r["tokens"] / 1e3 for r in rows], [r["ev"] for r in rows]
        late += y[len(y) // 2 :]
        for axes in (whole, end):
            axes.plot(x, y, color=COLOURS[i % 8], marker=MARKS[i % 8], markersize=3.5, linewidth=1.6,
                      label=f"{label}: {y[-1]:.3f}", zorder=9 - i)
    for axes in (whole, end):
        axes.set_xlabel("tokens trained on, thousands")
    whole.set_ylabel("explained variance of held-out tokens")
    end.set_xlim(left=0.5 * x[-1])
    end.set_ylim(min(late) - 0.002, max(late) + 0.002)
    end.grid(True, color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        end.spines[side].set_visible(False)
    end.set_title("the second half", fontsize=10)
    finish(figure, whole, out)


def ev_l0(out, pairs):
    figure, axes = plt.subplots(figsize=(7.4, 5))
    curves = {}
    for name, path in pairs:
        last = table(path)[-1]
        curves.setdefault(name, []).append((last["l0"], last["ev"]))
    for i, (name, points) in enumerate(curves.items()):
        x, y = zip(*sorted(points))
        axes.plot(x, y, color=COLOURS[i % 8], marker=MARKS[i % 8], markersize=5, linewidth=1.5, label=name)
    axes.set_xscale("log")
    ticks = [t for t in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if t <= 1.3 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("active latents a token (held-out tokens)")
    axes.set_ylabel("explained variance of held-out tokens")
    finish(figure, axes, out)


if __name__ == "__main__":
    draw = {"peers": peers, "ev-l0": ev_l0}[sys.argv[1]]
    draw(sys.argv[2], [arg.split("=", 1) for arg in sys.argv[3:]])
