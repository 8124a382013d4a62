"""Pictures a second of decode + transform (CLIP's: shorter side to 224 bicubic, centre crop,
normalise) by Pillow, torchvision v1 (on Pillow's pictures) and v2 (on tensors), beside bench_images.

    images.py FOLDER [BENCH_IMAGES [threads=1] [rounds=7]]

FOLDER gets 120 JPEGs of 500 x 375 and 375 x 500 pixels, quality 90, 4:2:0; all read the same files,
from memory. Everyone has a turn in every round, so that what else the machine does hits all alike;
ratios are of medians.
"""

import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, features
from PIL import __version__ as pillow_version
import torchvision
from torchvision import transforms as v1
from torchvision.io import decode_jpeg
from torchvision.transforms import v2

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
N_FILES = 120


def write_files(folder):
    """Blurred blocks and noise: about as many bytes as photographs of this size and quality."""
    rng = np.random.default_rng(0)
    os.makedirs(folder, exist_ok=True)
    for i in range(N_FILES):
        width, height = (500, 375) if i % 3 else (375, 500)
        blocks = rng.normal(128, 60, (height // 8, width // 8, 3)).clip(0, 255).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(blocks).resize((width, height), Image.BICUBIC))
        noise = rng.normal(0, 6, (height, width, 3)).astype(np.int16)
        picture = Image.fromarray((smooth.astype(np.int16) + noise).clip(0, 255).astype(np.uint8))
        picture.save(f"{folder}/{i:03}.jpg", "JPEG", quality=90)


def pillow(jpeg):
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    scale = 224 / min(picture.size)
    picture = picture.resize([round(n * scale) for n in picture.size], Image.BICUBIC)
    left, top = ((n - 224) // 2 for n in picture.size)
    values = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1))


on_pictures = v1.Compose(
    [
        v1.Resize(224, interpolation=v1.InterpolationMode.BICUBIC),
        v1.CenterCrop(224),
        v1.ToTensor(),
        v1.Normalize(MEAN.tolist(), STD.tolist()),
    ]
)
on_tensors = v2.Compose(
    [
        v2.Resize(224, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN.tolist(), STD.tolist()),
    ]
)


def torchvision_v1(jpeg):
    return on_pictures(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def torchvision_v2(jpeg):
    return on_tensors(decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)))


def main():
    folder = sys.argv[1]
    bench = sys.argv[2] if len(sys.argv) > 2 else None
    given = dict(a.split("=", 1) for a in sys.argv[3:])
    threads, rounds = int(given.get("threads", 1)), int(given.get("rounds", 7))
    if not os.path.exists(f"{folder}/{N_FILES - 1:03}.jpg"):
        write_files(folder)
    files = [open(f"{folder}/{name}", "rb").read() for name in sorted(os.listdir(folder))]
    print(f"{len(files)} JPEGs, {sum(map(len, files)) / len(files) / 1e3:.1f} kB each, {threads} threads; "
          f"Pillow {pillow_version} (libjpeg-turbo {features.version('libjpeg_turbo')}), "
          f"torchvision {torchvision.__version__}, torch {torch.__version__}")
    torch.set_num_threads(1)
    peers = [pillow, torchvision_v1, torchvision_v2]
    rates = {p.__name__: [] for p in peers}
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(rounds + 1):  # the first warms up
            for peer in peers:
                begin = time.perf_counter()
                list(pool.map(peer, files))
                if turn > 0:
                    rates[peer.__name__].append(len(files) / (time.perf_counter() - begin))
            if bench is not None and turn > 0:
                command = [bench, f"folder={folder}", f"threads={threads}", "rounds=1", "brief=true"]
                for line in subprocess.check_output(command, text=True).splitlines():
                    name, rate = line.split()
                    rates.setdefault(f"refract {name}", []).append(float(rate))
    base = {p.__name__: float(np.median(rates[p.__name__])) for p in peers}
    for name, values in rates.items():
        median = float(np.median(values))
        print(f"{name:16} pictures/s min {min(values):5.0f} median {median:5.0f} max {max(values):5.0f}"
              f"   {median / base['pillow']:5.2f} x Pillow {median / base['torchvision_v2']:5.2f} x torchvision v2")


if __name__ == "__main__":
    main()
