"""Golden files of preprocessing: what the inference transforms of open_clip and timm make of the
pictures that make_pictures.py wrote.

    python tests/golden/make_libraries.py       writes tests/golden/pictures/libraries*
"""
import json
import pathlib

import open_clip
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent / "pictures"
MEAN, STD = (0.31, 0.42, 0.53), (0.21, 0.32, 0.23)
OPEN_CLIP = {
    "shortest": {"size": 16},
    "bilinear": {"size": 23, "interpolation": "bilinear", "mean": MEAN, "std": STD},
    "squash": {"size": 15, "resize_mode": "squash"},
    "model": {},
}
TIMM = {
    "crop": {"input_size": (3, 20, 20), "crop_pct": 0.9, "interpolation": "bicubic"},
    "default": {"input_size": (3, 21, 21), "interpolation": "bilinear", "mean": MEAN, "std": STD},
    "whole": {"input_size": (3, 24, 24), "crop_pct": 1.0, "interpolation": "bicubic"},
    "squash": {"input_size": (3, 18, 26), "crop_pct": 0.95, "crop_mode": "squash"},
    "odd": {"input_size": (3, 17, 17), "crop_pct": 0.8, "interpolation": "bicubic"},
}


def main():
    (HERE / "libraries").mkdir(exist_ok=True)
    tensors, transforms = {}, {}
    for name, cfg in OPEN_CLIP.items():
        config = {"model_cfg": {"vision_cfg": {"image_size": 19}}, "preprocess_cfg": cfg}
        full = PreprocessCfg(**{"size": 19, **cfg})
        transforms[f"open_clip-{name}"] = config, image_transform_v2(full, is_train=False)
    for name, cfg in TIMM.items():
        resolved = timm.data.resolve_data_config({}, pretrained_cfg=cfg)
        config = {"architecture": "vit_base_patch16_224", "pretrained_cfg": cfg}
        transforms[f"timm-{name}"] = config, timm.data.create_transform(**resolved)
    for name, (config, transform) in transforms.items():
        text = json.dumps(config, indent=1, sort_keys=True) + "\n"
        (HERE / "libraries" / f"{name}.json").write_text(text)
        for source in ("wide", "tall", "small"):
            image = Image.open(HERE / f"{source}.png").convert("RGB")
            tensors[f"{name}/{source}"] = transform(image).to(torch.float32).contiguous()
    out = HERE / "libraries.safetensors"
    save_file(tensors, out, metadata={
        "made by": "tests/golden/make_libraries.py", "open_clip": open_clip.__version__,
        "timm": timm.__version__, "torch": torch.__version__})
    out.chmod(0o644)


main()
