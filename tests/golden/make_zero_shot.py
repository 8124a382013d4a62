"""Golden files for zero-shot classifiers: a tiny random CLIP with the tokenizer that
make_tokenizer.py wrote, the classifier that transformers builds with it for a few names in all 80
templates and in two of its own, and the same as Prisma saves it (.npy, [width, classes]).

Run: python make_zero_shot.py   (writes zero_shot/ beside this file; needs torch, transformers,
open_clip_torch for the templates, numpy)
"""

import pathlib
import shutil

import numpy as np
import torch
import transformers
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "zero_shot"
NAMES = ["tench", "great white shark", "T-shirt", "caf\u00e9", "x" * 200]
OWN = ["{}", "a very {} thing, indeed"]


def make_model():
    torch.manual_seed(5)
    text = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                vocab_size=2014, max_position_embeddings=20, bos_token_id=2012, eos_token_id=2013,
                pad_token_id=2013)
    vision = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                  image_size=8, patch_size=4)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    for name, p in model.named_parameters():
        if name.endswith("weight") and p.dim() == 1:
            p.data.normal_(1.0, 0.3)
        else:
            p.data.normal_(0, 0.5 if p.dim() < 2 else p.shape[-1] ** -0.5)
    return model.half().float()


def classifier(model, tokenizer, templates):
    rows = []
    with torch.no_grad():
        for name in NAMES:
            prompts = [t.replace("{}", name) for t in templates]
            ids = [tokenizer(p, truncation=True, max_length=20)["input_ids"] for p in prompts]
            ids = torch.tensor([i + [0] * (20 - len(i)) for i in ids])
            pooled = model.double().text_model(input_ids=ids).pooler_output
            e = torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)
            rows.append(torch.nn.functional.normalize(e.mean(0), dim=0))
    return torch.stack(rows)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "model").mkdir(parents=True)
    model = make_model()
    model.half().save_pretrained(OUT / "model")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(HERE / "tokenizer" / "two" / name, OUT / "model" / name)
    tokenizer = CLIPTokenizer(str(OUT / "model" / "vocab.json"), str(OUT / "model" / "merges.txt"))
    all80 = classifier(model, tokenizer, [t("{}") for t in OPENAI_IMAGENET_TEMPLATES])
    own = classifier(model, tokenizer, OWN)
    pictures = torch.randn(3, 12, dtype=torch.float64)
    logits = 100.0 * torch.nn.functional.normalize(pictures, dim=-1) @ all80.T
    save_file({"all80": all80.float(), "own": own.float(), "pictures": pictures.float(),
               "logits": logits.float()}, OUT / "zero_shot.safetensors",
              metadata={"transformers": transformers.__version__, "torch": torch.__version__})
    np.save(OUT / "prisma.npy", all80.T.float().numpy())
    for path in OUT.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


main()
