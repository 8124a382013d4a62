"""Learning rates of torch's schedulers, printed as tests/train/test_schedule.c has them.

CosineAnnealingWarmRestarts, CosineAnnealingLR and LinearLR, whose values for whole cycles are those
of rf_schedule_lr. They are few, so they stand in the test itself; this script says where they come
from and checks nothing.

    python make_schedule.py
"""
import torch


def rates(make, n_steps, lr=1e-3):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = torch.optim.SGD([weight], lr=lr)
    scheduler = make(optimiser)
    out = []
    for _ in range(n_steps):
        out.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return out


def show(name, values, steps):
    print(f"/* {name}, torch {torch.__version__} */")
    for step in steps:
        print(f"    {{{step}, {values[step]!r}}},")


if __name__ == "__main__":
    schedulers = torch.optim.lr_scheduler
    show(
        "CosineAnnealingWarmRestarts, T_0 = 30, eta_min = 1e-4",
        rates(lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=30, eta_min=1e-4), 90),
        [0, 1, 15, 29, 30, 31, 59, 60, 89],
    )
    show(
        "CosineAnnealingLR, T_max = 100, eta_min = 1e-4",
        rates(lambda o: schedulers.CosineAnnealingLR(o, T_max=100, eta_min=1e-4), 101),
        [0, 1, 9, 10, 50, 99, 100],
    )
    show(
        "LinearLR, 1 to 0.25 over 40",
        rates(lambda o: schedulers.LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=40), 41),
        [0, 1, 20, 39, 40],
    )
