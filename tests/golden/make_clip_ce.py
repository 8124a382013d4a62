"""Golden file for the cross entropy of a zero-shot classifier: what transformers makes, in double precision, of a
few random pictures with the CLIP and the classifier of make_zero_shot.py; untouched, with zeros in the place of all
tokens behind block 0, and with the first half of the channels alone there.

Run: python make_clip_ce.py   (after make_zero_shot.py; writes clip_ce.safetensors beside this file)
"""

import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

HERE = pathlib.Path(__file__).resolve().parent
N = 12


def main():
    model = CLIPModel.from_pretrained(HERE / "zero_shot" / "model").double().eval()
    classes = load_file(HERE / "zero_shot" / "zero_shot.safetensors")["all80"].double()
    torch.manual_seed(11)
    rgb = torch.randint(0, 256, (N, 8, 8, 3), dtype=torch.uint8)
    labels = torch.arange(N) % len(classes)
    pixels = ((rgb.double() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    replace = {"untouched": lambda x: x, "zero": torch.zeros_like,
               "front": lambda x: torch.cat([x[..., :8], torch.zeros_like(x[..., 8:])], -1)}
    out = {"rgb": rgb, "labels": labels.to(torch.int32)}
    for name, change in replace.items():
        hook = model.vision_model.encoder.layers[0].register_forward_hook(
            lambda m, i, o: (change(o[0]),) + o[1:] if isinstance(o, tuple) else change(o))
        with torch.no_grad():
            e = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        hook.remove()
        cosines = torch.nn.functional.normalize(e, dim=-1) @ classes.T
        logits = model.logit_scale.exp() * cosines
        out[name + "_cosines"] = cosines.float()
        out[name + "_ce"] = torch.nn.functional.cross_entropy(logits, labels).float().reshape(1)
        out[name + "_right"] = (logits.argmax(1) == labels).sum().float().reshape(1)
    out["logit_scale"] = model.logit_scale.detach().exp().float().reshape(1)
    save_file(out, HERE / "clip_ce.safetensors",
              metadata={"transformers": transformers.__version__, "torch": torch.__version__})
    print({k: v.tolist() for k, v in out.items() if v.numel() == 1})


main()
