"""Write what a model's own library computes at every hook point; launch/dump-reference --help.

usage: dump_reference.py MODEL_DIR PICTURE... [text=TEXT] [out=FILE] [hooks=PATTERN,...]
"""

import fnmatch
import importlib
import json
import pathlib
import sys

PACKAGES = {"torch": "torch", "safetensors.torch": "safetensors", "PIL.Image": "Pillow",
            "transformers": "transformers", "timm": "timm", "open_clip": "open_clip_torch"}
ROUNDING = 5e-6  # fp32 of the library is told where it differs by more


def need(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"dump-reference: {error}; pip install {PACKAGES[name]}")


torch = need("torch")
save_file = need("safetensors.torch").save_file
import reference  # noqa: E402

# model_type: the family, where the two differ
FAMILIES = {"clip_vision_model": "clip", "clip_text_model": "clip",
            "siglip_vision_model": "siglip", "siglip_text_model": "siglip",
            "siglip2_vision_model": "siglip2", "metaclip_2_vision_model": "metaclip_2"}
CLIPS = {"vivit": "num_frames", "videomae": "num_frames", "vjepa2": "frames_per_clip",
         "vjepa": "frames_per_clip"}


def read_json(path):
    return json.loads(path.read_text()) if path.exists() else None


class Folder:
    """A model's folder: its library, its model, how that takes pictures and text."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if (self.path / "model_index.json").exists() and (self.path / "image_encoder").is_dir():
            self.path /= "image_encoder"  # a diffusion pipeline's
        if not self.path.is_dir():
            sys.exit(f"dump-reference: there is no folder '{path}'")
        self.config = read_json(self.path / "config.json") or {}
        if (self.path / "open_clip_config.json").exists():
            self.library = self.family = "open_clip"
            self.load_open_clip()
        elif "architecture" in self.config:
            self.library, self.family = "timm", self.config["architecture"]
            self.load_timm()
        elif self.config.get("model_type") == "vjepa":
            self.library, self.family = "meta", "vjepa"
            self.load_vjepa()
        elif "model_type" in self.config:
            kind = self.config["model_type"]
            self.library, self.family = "transformers", FAMILIES.get(kind, kind)
            self.load_transformers()
        else:
            sys.exit(f"dump-reference: '{path}' holds neither open_clip_config.json nor a "
                     "config.json with model_type (transformers) or architecture (timm)")

    def load_open_clip(self):
        open_clip = need("open_clip")
        config = read_json(self.path / "open_clip_config.json")
        if "timm_model_args" in config["model_cfg"]["vision_cfg"]:
            sys.exit("dump-reference: open_clip knows no timm_model_args")
        self.model, _, self.transform = open_clip.create_model_and_transforms(
            f"local-dir:{self.path}")

    def load_timm(self):
        timm = need("timm")
        self.model = timm.create_model(f"local-dir:{self.path}", pretrained=True)
        self.transform = timm.data.create_transform(
            **timm.data.resolve_model_data_config(self.model), is_training=False)

    def load_vjepa(self):
        c = self.config
        self.model = reference.VJepa1(
            c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["crop_size"],
            c["patch_size"], c["frames_per_clip"], c["tubelet_size"], c.get("mlp_ratio", 4.0))
        files = sorted(f for f in self.path.iterdir() if f.suffix in (".pth", ".pt", ".tar"))
        stored = torch.load(files[0], map_location="cpu", weights_only=True)
        stored = stored.get("target_encoder", stored)
        self.model.load_state_dict({k.removeprefix("module.").removeprefix("backbone."): v
                                    for k, v in stored.items()})
        self.transform = self.plain_transform

    def load_transformers(self):
        transformers = need("transformers")
        names = self.config.get("architectures") or ["AutoModel"]
        if names[0] == "ViTMAEForPreTraining":
            names = ["ViTMAEModel"]  # without the decoder
        kind = getattr(transformers, names[0], transformers.AutoModel)
        self.model = kind.from_pretrained(self.path, local_files_only=True, dtype=torch.float32)
        self.transform = self.plain_transform
        if (self.path / "preprocessor_config.json").exists() and self.family != "siglip2":
            processor = transformers.AutoImageProcessor.from_pretrained(self.path)
            self.transform = lambda picture: processor(
                images=picture, return_tensors="pt")["pixel_values"][0]

    def side(self):
        """(height, width) by the config."""
        c = self.config.get("vision_config", self.config)
        if "num_patches" in c and self.family == "siglip2":
            side = round(c["num_patches"] ** 0.5) * c["patch_size"]
        else:
            side = c.get("image_size", c.get("crop_size", 224))
        return tuple(side) if isinstance(side, (list, tuple)) else (side, side)

    def plain_transform(self, picture):
        """For folders that say nothing: the whole picture at the model's size, in [-1, 1]."""
        height, width = self.side()
        pixels = picture.resize((width, height), need("PIL.Image").BICUBIC)
        x = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
        return x.reshape(height, width, 3).permute(2, 0, 1) / 127.5 - 1

    def prepare(self, paths):
        image = need("PIL.Image")
        pictures = [image.open(path).convert("RGB") for path in paths]
        frames_key = CLIPS.get(self.config.get("model_type"))
        if frames_key is None:
            return torch.stack([self.transform(p) for p in pictures])
        frames = [self.plain_transform(p) for p in pictures]
        n = self.config.get(frames_key, 16)
        return torch.stack([frames[i % len(frames)] for i in range(n)])[None]

    def tokenize(self, text):
        if self.library == "open_clip":
            return need("open_clip").get_tokenizer(f"local-dir:{self.path}")([text])
        if self.library != "transformers":
            sys.exit(f"dump-reference: a model of {self.library} has no text tower")
        tokenizer = need("transformers").AutoTokenizer.from_pretrained(self.path)
        c = self.config.get("text_config", self.config)
        return tokenizer([text], padding="max_length", truncation=True, return_tensors="pt",
                         max_length=c.get("max_position_embeddings", 77))["input_ids"]


def parse(words):
    keys = {"out": "reference.safetensors", "text": None, "hooks": "*"}
    paths = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in keys:
            keys[key] = value
        elif pathlib.Path(word).is_file():
            paths.append(word)
        else:
            sys.exit(f"dump-reference: '{word}' is neither a picture nor out=, text= or hooks=")
    if bool(paths) == (keys["text"] is not None):
        sys.exit("dump-reference: give pictures, or text=...")
    return paths, keys


def error(name, a, b):
    """As `refract check` measures it."""
    least = 1.0 if name.endswith("hook_attn_scores") else 1e-30
    finite = torch.isfinite(b)
    a, b = (torch.where(finite, x, 0).double() for x in (a, b))
    return ((a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=least)).max().item()


def record(folder, model, x, how):
    try:
        return reference.record(model, folder.library, folder.family, x, **how)
    except reference.NotRecorded as why:
        sys.exit(f"dump-reference: {folder.family}: {why}")
    except (AssertionError, AttributeError, KeyError, TypeError) as why:
        sys.exit(f"dump-reference: {folder.family} ({type(model).__name__} of {folder.library}) is "
                 f"not built as this program knows: {why}")


def main():
    folder = Folder(sys.argv[1])
    paths, keys = parse(sys.argv[2:])
    tower = "text" if keys["text"] is not None else "vision"
    x = folder.tokenize(keys["text"]) if tower == "text" else folder.prepare(paths)
    patterns = keys["hooks"].split(",")
    how = {"tower": tower, "keep": lambda name: any(fnmatch.fnmatch(name, p) for p in patterns)}
    found = record(folder, folder.model.double(), x, how)
    again = record(folder, folder.model.float(), x, how)
    rounding = {name: error(name, again[name], value) for name, value in found.items()
                if name != "input"}
    found |= {"rounding/" + name: torch.tensor([e]) for name, e in rounding.items() if e > ROUNDING}
    versions = {name: sys.modules[name].__version__ for name in ("torch", folder.library)
                if name in sys.modules}
    save_file(found, keys["out"], metadata={
        **versions, "library": folder.library, "family": folder.family, "tower": tower,
        "model": str(sys.argv[1]), "made_by": "dump-reference"})
    worst = max(rounding, key=rounding.get)
    print(f"{keys['out']}: {len(rounding)} points of {folder.family}, input {list(x.shape)}; "
          f"fp32 of {folder.library} itself differs by up to {rounding[worst]:.1e}, at {worst}")


if __name__ == "__main__":
    main()
