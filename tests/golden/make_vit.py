"""Golden files for the vit layer: tiny random models in Hugging Face folders, and what transformers
computes at every hook point for two random pictures (eager attention, fp32).

Run: python make_vit.py        (writes vit/ beside this file; needs torch, transformers, safetensors)
"""

import json
import pathlib
import shutil

import safetensors.torch
import torch
import transformers
from transformers import (CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel,
                          CLIPVisionModelWithProjection, Dinov2Config, Dinov2ForImageClassification,
                          Dinov2Model, ViTConfig, ViTForImageClassification, ViTModel)
from transformers.models.clip import modeling_clip
from transformers.models.dinov2 import modeling_dinov2
from transformers.models.vit import modeling_vit

OUT = pathlib.Path(__file__).resolve().parent / "vit"


def randomise(model):
    """Weights far from their initial values: no bias is 0, no norm or LayerScale is 1."""
    for name, p in model.named_parameters():
        if p.dim() >= 2 and "position" not in name and "token" not in name:
            p.data.normal_(0, p[0].numel() ** -0.5)
        elif "norm" in name or "layrnorm" in name or "lambda" in name:
            p.data.normal_(1.0 if name.endswith("weight") else 0.4, 0.3)
        else:
            p.data.normal_(0, 0.5)
    return model.eval()


class Recorder:
    """Records every hook point of one forward pass; `edits` replaces values at some of them."""

    def __init__(self, family, tower, edits=None):
        self.family, self.tower, self.edits = family, tower, edits or {}
        self.points, self.handles, self.layer = {}, [], -1
        self.n_heads = tower.config.num_attention_heads
        clip = family == "clip"
        self.layers = (tower.encoder.layers if clip else
                       tower.encoder.layer if family == "dinov2" else tower.layers)
        self.names = {
            "clip": ("layer_norm1", "layer_norm2", "self_attn", "out_proj"),
            "vit": ("layernorm_before", "layernorm_after", "attention", "o_proj"),
            "dinov2": ("norm1", "norm2", "attention", "o_proj"),
        }[family]

    def put(self, name, value):
        self.points[name] = value.detach().clone()
        if name in self.edits:
            return self.edits[name](value)
        return None

    def on_output(self, module, name, shape=lambda x: x, unshape=None):
        def hook(_, __, out):
            got = self.put(name, shape(out))
            return None if got is None else (unshape or (lambda x: x))(got)
        self.handles.append(module.register_forward_hook(hook))

    def on_norm(self, module, prefix):
        def hook(m, args, out):
            x = args[0]
            self.put(prefix + ".hook_scale", (x.var(-1, unbiased=False, keepdim=True) + m.eps).sqrt())
            return self.put(prefix + ".hook_normalized", out)
        self.handles.append(module.register_forward_hook(hook))

    def on_input(self, module, name):
        def hook(_, args):
            got = self.put(name, args[0])
            return None if got is None else (got,) + args[1:]
        self.handles.append(module.register_forward_pre_hook(hook))

    def attention(self, module, q, k, v, mask, scaling=None, **_):
        at = f"blocks.{self.layer}.attn."
        scores = q @ k.transpose(2, 3) * scaling
        got = self.put(at + "hook_attn_scores", scores)
        pattern = (scores if got is None else got).softmax(-1)
        got = self.put(at + "hook_pattern", pattern)
        z = ((pattern if got is None else got) @ v).transpose(1, 2).contiguous()
        got = self.put(at + "hook_z", z)
        return (z if got is None else got), pattern

    def attach_layer(self, i, layer):
        ln1, ln2, attn, out = self.names
        at, heads = f"blocks.{i}.", lambda x: x.view(*x.shape[:2], self.n_heads, -1)
        def begin(_, args, i=i):
            self.layer = i
        self.handles.append(layer.register_forward_pre_hook(begin))
        self.on_input(layer, at + "hook_resid_pre")
        self.on_norm(getattr(layer, ln1), at + "ln1")
        attention = getattr(layer, attn)
        for which in "qkv":
            self.on_output(getattr(attention, which + "_proj"), f"{at}attn.hook_{which}", heads,
                           lambda x: x.flatten(2))
        scaled = self.family == "dinov2"
        self.on_output(layer.layer_scale1 if scaled else getattr(attention, out),
                       at + "hook_attn_out")
        self.on_norm(getattr(layer, ln2), at + "ln2")
        self.handles.append(getattr(layer, ln2).register_forward_pre_hook(
            lambda _, args, at=at: self.put(at + "hook_resid_mid", args[0])))
        self.on_output(layer.mlp.fc1, at + "mlp.hook_pre")
        self.on_output(layer.mlp.activation_fn, at + "mlp.hook_post")
        self.on_output(layer.layer_scale2 if scaled else layer.mlp.fc2, at + "hook_mlp_out")
        self.on_output(layer, at + "hook_resid_post")

    def __enter__(self):
        t = self.tower
        conv = t.embeddings.patch_embedding if self.family == "clip" else \
            t.embeddings.patch_embeddings.projection
        self.on_output(conv, "hook_embed", lambda x: x.flatten(2).transpose(1, 2))
        self.on_output(t.embeddings, "hook_full_embed")
        if self.family == "clip":
            self.on_norm(t.pre_layrnorm, "ln_pre")
            self.on_output(t.pre_layrnorm, "hook_ln_pre")
        for i, layer in enumerate(self.layers):
            self.attach_layer(i, layer)
        for module in (modeling_clip, modeling_vit, modeling_dinov2):
            module._kept = module.eager_attention_forward
            module.eager_attention_forward = self.attention
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
        for module in (modeling_clip, modeling_vit, modeling_dinov2):
            module.eager_attention_forward = module._kept

    def finish(self, size):
        """Points that are not modules' outputs."""
        t, n = self.tower, len(self.layers)
        e = t.embeddings
        full = self.points["hook_full_embed"]
        if self.family == "clip":
            position = e.position_embedding.weight[None]
        elif self.family == "dinov2":
            position = e.interpolate_pos_encoding(full[:, 1:], size, size)
        else:
            position = e.position_embeddings
        self.points["hook_pos_embed"] = position.expand_as(full).contiguous()
        last = self.points[f"blocks.{n - 1}.hook_resid_post"]
        ln = t.post_layernorm if self.family == "clip" else t.layernorm
        self.points["ln_final.hook_scale"] = (last.var(-1, unbiased=False, keepdim=True) + ln.eps).sqrt()
        self.points["ln_final.hook_normalized"] = ln(last)
        self.points["hook_ln_final"] = ln(last)
        self.points["hook_pooled"] = ln(last)[:, 0]


def outputs(model, tower, images):
    """(embedding, logits or None) as Refract defines them."""
    if isinstance(model, CLIPModel):
        pooled = model.vision_model(images).pooler_output
        return model.visual_projection(pooled), None
    out = model(images)
    if isinstance(model, CLIPVisionModelWithProjection):
        return out.image_embeds, None
    if isinstance(model, CLIPVisionModel):
        return out.pooler_output, None
    if hasattr(out, "logits"):
        return tower(images).last_hidden_state[:, 0], out.logits
    return out.last_hidden_state[:, 0], None


def record(family, model, size, keep=None, edits=None):
    tower = {"clip": lambda m: getattr(m, "vision_model", m), "vit": lambda m: getattr(m, "vit", m),
             "dinov2": lambda m: getattr(m, "dinov2", m)}[family](model)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        plain, plain_logits = outputs(model, tower, images)
        with Recorder(family, tower) as r:
            embedding, logits = outputs(model, tower, images)
            r.finish(size)
        assert (embedding - plain).abs().max() < 1e-5
        result = {"images": images, "embedding": embedding}
        if logits is not None:
            result["logits"] = logits
        for name, value in r.points.items():
            if keep is None or any(name.endswith(k) for k in keep):
                result[name] = value
        for label, edit in (edits or {}).items():
            with Recorder(family, tower, edit):
                result["edited/" + label] = outputs(model, tower, images)[0]
    return {k: v.contiguous().float().clone() for k, v in result.items()}


def save(name, model, family, size, dtype=torch.float32, keep=None, edits=None, internal_names=False,
         config_edit=None, shard="1GB", more_sizes=()):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.set_attn_implementation("eager")
    model = model.to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    if internal_names:  # as transformers 5 calls them inside
        safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()},
                                    folder / "model.safetensors")
    model = model.float()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config_edit or (lambda c: None))(config)
    path.write_text(json.dumps(config, indent=1) + "\n")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__,
                "made_by": "make_vit.py"}
    for at in (size, *more_sizes):
        tail = "" if at == size else f"_{at}"
        safetensors.torch.save_file(record(family, model, at, keep, edits),
                                    folder / f"activations{tail}.safetensors", metadata=versions)


EDITS = {
    "zero_resid_post_1": {"blocks.1.hook_resid_post": torch.zeros_like},
    "uniform_pattern_0": {"blocks.0.attn.hook_pattern": lambda p: torch.full_like(p, 1 / p.shape[-1])},
    "double_z_2": {"blocks.2.attn.hook_z": lambda z: 2 * z},
    "negative_q_1": {"blocks.1.attn.hook_q": lambda q: -q},
    "half_mlp_out_0": {"blocks.0.hook_mlp_out": lambda x: 0.5 * x},
    "shifted_mlp_pre_1": {"blocks.1.mlp.hook_pre": lambda x: x + 1},
}
FEW = ("hook_embed", "hook_full_embed", "hook_resid_post", "hook_pooled")


def vision_keys(sizes):
    d, heads, mlp, layers, image, patch = sizes
    return dict(hidden_size=d, num_attention_heads=heads, intermediate_size=mlp,
                num_hidden_layers=layers, image_size=image, patch_size=patch)


def drop_defaults(config):
    """Keys that transformers' class supplies when a whole model's file lacks them."""
    for key in ("hidden_act", "layer_norm_eps", "num_channels"):
        del config["vision_config"][key]


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    clip = vision_keys((32, 4, 56, 3, 24, 8))
    save("clip_projection", randomise(CLIPVisionModelWithProjection(
        CLIPVisionConfig(**clip, projection_dim=20))), "clip", 24, edits=EDITS)
    save("clip_tower", randomise(CLIPVisionModel(
        CLIPVisionConfig(**{**clip, "num_hidden_layers": 2}, hidden_act="gelu"))), "clip", 24,
        dtype=torch.float16, keep=FEW)
    text = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                vocab_size=10, max_position_embeddings=4, bos_token_id=1, eos_token_id=2)
    save("clip_whole", randomise(CLIPModel(CLIPConfig(
        vision_config={**clip, "num_hidden_layers": 2}, text_config=text, projection_dim=12))),
        "clip", 24, dtype=torch.bfloat16, keep=FEW, config_edit=drop_defaults)

    vit = vision_keys((36, 3, 52, 3, 26, 8))  # a border of 2 pixels is left out
    save("vit", randomise(ViTModel(ViTConfig(**vit))), "vit", 26, edits=EDITS)
    save("vit_classifier", randomise(ViTForImageClassification(ViTConfig(
        **{**vit, "num_hidden_layers": 2}, qkv_bias=False, hidden_act="gelu_new",
        id2label={0: "cat", 1: "dog", 2: "eel"}))), "vit", 26, dtype=torch.float16, keep=FEW)
    save("vit_internal_names", randomise(ViTForImageClassification(ViTConfig(
        **{**vit, "num_hidden_layers": 2}, hidden_act="relu"))), "vit", 26, dtype=torch.bfloat16,
        keep=FEW, internal_names=True)

    dino = dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=3, mlp_ratio=2,
                image_size=21, patch_size=7)
    save("dinov2", randomise(Dinov2Model(Dinov2Config(**dino))), "dinov2", 21, edits=EDITS,
         shard="90KB")
    save("dinov2_classifier", randomise(Dinov2ForImageClassification(Dinov2Config(
        **{**dino, "num_hidden_layers": 2, "image_size": 28}, hidden_act="silu", num_labels=5))),
        "dinov2", 28, dtype=torch.float16, keep=FEW, more_sizes=(42, 21))


if __name__ == "__main__":
    main()
