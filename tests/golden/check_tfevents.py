"""Read what `test_tfevents write FOLDER` wrote with the real TensorBoard, and compare.

usage: python check_tfevents.py PATH/TO/test_tfevents
"""
import subprocess
import sys
import tempfile

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.argv[1], "write", folder], check=True)
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "l0"}, events.Tags()
    loss, l0 = events.Scalars("train/loss"), events.Scalars("l0")
    assert [e.step for e in loss] == list(range(300))
    assert [e.wall_time for e in loss] == [1e9 + i for i in range(300)]
    # values are stored as fp32: half a unit in the last of 24 bits
    assert all(abs(e.value - 1 / (i + 1)) <= 2**-24 / (i + 1) for i, e in enumerate(loss))
    assert [(e.step, e.value) for e in l0] == [(i * 1000000, i) for i in range(300)]
    assert events.file_version == 2.0, events.file_version
print(f"TensorBoard {tensorboard.__version__} reads 600 scalars of 2 tags as they were written")
