"""Golden files for the vit layer: tiny random models of every family in their libraries' folders,
and what the libraries compute at every hook point (launch/lib/reference.py, in double precision).

Run: python make_vit.py [NAME...]       writes vit/NAME beside this file (all, when none is named)
     python make_vit.py --full FAMILY DIR   a model of a published size at random, for
                                            launch/dump-reference and `refract check`
Needs torch, transformers, timm, open_clip and safetensors.
"""

import copy
import json
import pathlib
import shutil
import sys
import zlib

import open_clip
import safetensors.torch
import timm
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "launch" / "lib"))
import reference  # noqa: E402

OUT = HERE / "vit"
GOLDENS = {}  # name: function that writes its folder


def golden(function):
    GOLDENS[function.__name__] = function
    return function


def randomise(model, stream=0.05):
    """Weights far from their initial values: no bias is 0, no norm or LayerScale is 1. What makes
    the residual stream is small, so that a wrong eps shows."""
    for name, p in model.named_parameters():
        embeds = any(word in name for word in ("position", "pos_embed", "token", "class_embedding",
                                               "cls_emb"))
        patches = "patch_embed" in name or "conv1" in name
        if patches:
            p.data.normal_(0, stream * (p[0].numel() ** -0.5 if p.dim() > 1 else 1.0))
        elif embeds:
            p.data.normal_(0, stream)
        elif p.dim() < 2 and any(w in name for w in ("norm", "ln_", "layrnorm", "lambda", "gamma",
                                                     "ls_")):
            p.data.normal_(0.4 if name.endswith("bias") else 1.0, 0.3)
        elif p.dim() >= 2 and p.shape[0] > 1 and "table" not in name:
            p.data.normal_(0, 1.25 * p[0].numel() ** -0.5)
        elif name.endswith("bias"):
            p.data.normal_(0, 0.2)  # what tokens share must not hide what they do not
        else:
            p.data.normal_(0, 0.5)
    return model.eval()


def seeded(name):
    torch.manual_seed(zlib.crc32(name.encode()))


def inputs(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write_reference(path, model, library, family, x, tower="vision", edits=None, keep=None):
    """`keep`: endings of the points that are written (all, when None)."""
    found = reference.record(model.double(), library, family, x, tower, edits,
                             keep and (lambda point: point.endswith(keep)))
    versions = {lib: sys.modules[lib].__version__ for lib in ("torch", library)
                if lib in sys.modules}
    safetensors.torch.save_file(found, path, metadata={
        **versions, "library": library, "family": family, "tower": tower,
        "made_by": "make_vit.py"})


def fresh(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def rounded(model, dtype):
    """Parameters as a file of `dtype` holds them; tables that the model computes are left alone."""
    for p in model.parameters():
        p.data = p.data.to(dtype).float()
    return model


def drop_bulk(path, *keys):
    """config.json without what no reader needs."""
    config = json.loads(path.read_text())
    for key in keys:
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=1) + "\n")
    return config


def archive(folder, layout):
    """model.safetensors -> pytorch_model.bin, as zip or in the layout before torch 1.6."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin",
               _use_new_zipfile_serialization=layout == "zip")


FEW = ("hook_embed", "hook_pos_embed", "hook_full_embed", "hook_resid_post", "hook_pooled")


def save_hf(name, model, family, x, dtype=torch.float32, keep=None, edits=None, more=None,
            text=None, shard="1GB", internal_names=False, edit_config=None, layout=None, sub=None):
    """A folder of transformers. `more` {suffix: input}: further references; `text`: token ids;
    `layout`: of a PyTorch archive; `sub`: the folder's part that has the model."""
    top = fresh(name)
    folder = top / sub if sub else top
    model = rounded(randomise(model), dtype)
    stored = copy.deepcopy(model).to(dtype)
    stored.save_pretrained(folder, max_shard_size=shard)
    if internal_names:  # as transformers 5 calls them inside
        safetensors.torch.save_file({k: v.contiguous() for k, v in stored.state_dict().items()},
                                    folder / "model.safetensors")
    if layout:
        archive(folder, layout)
    config = drop_bulk(folder / "config.json", "transformers_version")
    if edit_config:
        edit_config(config)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for suffix, at in {"": x, **(more or {})}.items():
        write_reference(top / f"reference{suffix}.safetensors", model, "transformers", family, at,
                        keep=FEW if suffix else keep, edits=None if suffix else edits)
    if text is not None:
        write_reference(top / "reference_text.safetensors", model, "transformers", family, text,
                        "text", keep=keep)
    return top


def sizes(d=24, heads=2, mlp=40, layers=2, **more):
    return dict(hidden_size=d, num_attention_heads=heads, intermediate_size=mlp,
                num_hidden_layers=layers, **more)


def square(side=24, patch=8):
    return dict(image_size=side, patch_size=patch)


# ---- transformers: CLIP and its kin --------------------------------------------------------------

EDITS = {
    "zero_resid_post_1": {"blocks.1.hook_resid_post": torch.zeros_like},
    "uniform_pattern_0": {"blocks.0.attn.hook_pattern":
                          lambda p: torch.full_like(p, 1 / p.shape[-1])},
    "double_z_2": {"blocks.2.attn.hook_z": lambda z: 2 * z},
    "negative_q_1": {"blocks.1.attn.hook_q": lambda q: -q},
    "half_mlp_out_0": {"blocks.0.hook_mlp_out": lambda x: 0.5 * x},
    "shifted_mlp_pre_1": {"blocks.1.mlp.hook_pre": lambda x: x + 1},
}
CLIP = sizes(24, 3, 40, 3, **square())
TEXT_IDS = torch.tensor([[17, 3, 9, 18, 0, 0], [17, 18, 5, 6, 7, 2]])  # 18 ends, and is largest


def text_sizes(**more):
    return {**sizes(16, 2, 24, 2), "vocab_size": 19, "max_position_embeddings": 6,
            "bos_token_id": 17, "eos_token_id": 18, "pad_token_id": 0, **more}


@golden
def clip_projection(name):
    save_hf(name, transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
        **CLIP, projection_dim=20)), "clip", inputs(2, 3, 24, 24), edits=EDITS)


@golden
def clip_tower(name):
    save_hf(name, transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
        **{**CLIP, "num_hidden_layers": 2}, hidden_act="gelu")), "clip", inputs(2, 3, 24, 24),
        torch.float16, keep=FEW)


@golden
def clip_whole(name):
    def drop_defaults(config):  # keys that the class supplies when a whole model's file lacks them
        for key in ("hidden_act", "layer_norm_eps", "num_channels"):
            del config["vision_config"][key]
    save_hf(name, transformers.CLIPModel(transformers.CLIPConfig(
        vision_config={**CLIP, "num_hidden_layers": 2}, text_config=text_sizes(),
        projection_dim=12)), "clip", inputs(2, 3, 24, 24), torch.bfloat16, text=TEXT_IDS,
        edit_config=drop_defaults)


@golden
def clip_text_old_eos(name):  # eos_token_id 2, as files from before 2023 say: the largest id counts
    save_hf(name, transformers.CLIPModel(transformers.CLIPConfig(
        vision_config=sizes(8, 1, 8, 1, image_size=8, patch_size=8),
        text_config=text_sizes(eos_token_id=2, bos_token_id=0, hidden_act="gelu"),
        projection_dim=12)), "clip", inputs(1, 3, 8, 8), keep=FEW, text=TEXT_IDS)


@golden
def metaclip2(name):
    save_hf(name, transformers.MetaClip2Model(transformers.MetaClip2Config(
        vision_config=sizes(16, **square()), text_config=text_sizes(), projection_dim=12)),
        "metaclip_2", inputs(2, 3, 24, 24), torch.float16, keep=FEW, text=TEXT_IDS)


@golden
def kandinsky(name):  # the image encoder of a Kandinsky 2.x prior: one of several in a folder
    top = save_hf(name, transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
        **sizes(16, **square()), projection_dim=12)), "clip", inputs(1, 3, 24, 24), torch.float16,
        sub="image_encoder")
    (top / "model_index.json").write_text(json.dumps({
        "_class_name": "KandinskyPriorPipeline",
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, indent=1) + "\n")


SIGLIP = sizes(24, 2, 40, 2, hidden_act="gelu_pytorch_tanh")


@golden
def siglip(name):
    text = {**text_sizes(hidden_act="gelu_pytorch_tanh"), "hidden_size": 24}
    save_hf(name, transformers.SiglipModel(transformers.SiglipConfig(
        vision_config={**SIGLIP, **square()}, text_config=text)), "siglip", inputs(1, 3, 24, 24),
        torch.float16, text=TEXT_IDS)


@golden
def siglip_tower(name):  # a patch that does not divide the picture
    save_hf(name, transformers.SiglipVisionModel(transformers.SiglipVisionConfig(
        **SIGLIP, **square(26))), "siglip", inputs(2, 3, 26, 26), torch.float16, keep=FEW)


@golden
def siglip2(name):
    text = {**text_sizes(hidden_act="gelu_pytorch_tanh"), "hidden_size": 16}
    save_hf(name, transformers.Siglip2Model(transformers.Siglip2Config(
        vision_config={**SIGLIP, "hidden_size": 16, "patch_size": 8, "num_patches": 9},
        text_config=text)), "siglip2",
        inputs(1, 3, 24, 24), torch.float16)


# ---- transformers: ViT and its kin ---------------------------------------------------------------

VIT = sizes(36, 3, 52, 3, **square(26))  # a border of 2 pixels is left out
NAMES = {0: "cat", 1: "dog", 2: "eel"}


@golden
def vit(name):
    save_hf(name, transformers.ViTModel(transformers.ViTConfig(**VIT)), "vit",
            inputs(2, 3, 26, 26), edits=EDITS)


@golden
def vit_classifier(name):
    save_hf(name, transformers.ViTForImageClassification(transformers.ViTConfig(
        **{**VIT, "num_hidden_layers": 2}, qkv_bias=False, hidden_act="gelu_new", id2label=NAMES)),
        "vit", inputs(2, 3, 26, 26), torch.float16, keep=FEW)


@golden
def vit_internal_names(name):
    save_hf(name, transformers.ViTForImageClassification(transformers.ViTConfig(
        **{**VIT, "num_hidden_layers": 2}, hidden_act="relu")), "vit", inputs(2, 3, 26, 26),
        torch.bfloat16, keep=FEW, internal_names=True)


@golden
def vit_oblong(name):  # a picture that is not square, in a legacy archive
    save_hf(name, transformers.ViTModel(transformers.ViTConfig(
        **sizes(image_size=[16, 32], patch_size=8)), add_pooling_layer=False), "vit",
        inputs(2, 3, 16, 32), layout="legacy")


@golden
def dino(name):  # DINO v1: a ViT with other weights; one layer, one head, one picture
    save_hf(name, transformers.ViTModel(transformers.ViTConfig(**sizes(24, 1, 40, 1, **square())),
                                        add_pooling_layer=False), "vit", inputs(1, 3, 24, 24),
            layout="zip")


@golden
def deit(name):
    save_hf(name, transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(
        **sizes(**square()), id2label=NAMES)), "deit", inputs(1, 3, 24, 24))


@golden
def ijepa(name):
    save_hf(name, transformers.IJepaModel(transformers.IJepaConfig(
        **sizes(16, **square(), layer_norm_eps=1e-6)), add_pooling_layer=False), "ijepa",
        inputs(1, 3, 24, 24), torch.float16)


@golden
def mae(name):
    save_hf(name, transformers.ViTMAEModel(transformers.ViTMAEConfig(**sizes(16, **square()))),
            "vit_mae", inputs(1, 3, 24, 24), torch.float16)


@golden
def mae_pretraining(name):  # with its decoder, which is left aside
    save_hf(name, transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(
        **sizes(d=16, mlp=16, **square()), decoder_hidden_size=8, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=1, decoder_intermediate_size=8)), "vit_mae",
        inputs(1, 3, 24, 24), torch.float16, keep=FEW)


@golden
def beit(name):  # as BEiT's classifiers: relative positions a layer, the mean, no added positions
    save_hf(name, transformers.BeitForImageClassification(transformers.BeitConfig(
        **sizes(**square()), use_relative_position_bias=True, id2label=NAMES)), "beit",
        inputs(2, 3, 24, 24))


@golden
def beit_shared(name):  # as BEiT's pretraining: one shared table, class token, added positions
    save_hf(name, transformers.BeitModel(transformers.BeitConfig(
        **sizes(16, **square()), use_shared_relative_position_bias=True,
        use_absolute_position_embeddings=True, use_mean_pooling=False)), "beit",
        inputs(1, 3, 24, 24), torch.float16)


# ---- transformers: DINOv2, DINOv3 ----------------------------------------------------------------

DINOV2 = dict(hidden_size=24, num_attention_heads=2, num_hidden_layers=3, mlp_ratio=2,
              image_size=21, patch_size=7)


@golden
def dinov2(name):
    save_hf(name, transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)), "dinov2",
            inputs(2, 3, 21, 21), edits=EDITS, shard="45KB")


@golden
def dinov2_classifier(name):
    save_hf(name, transformers.Dinov2ForImageClassification(transformers.Dinov2Config(
        **{**DINOV2, "num_hidden_layers": 2, "image_size": 28}, hidden_act="silu", num_labels=5)),
        "dinov2", inputs(2, 3, 28, 28), torch.float16, keep=FEW,
        more={"_42": inputs(2, 3, 42, 42), "_21": inputs(2, 3, 21, 21)})


@golden
def dinov2_registers(name):
    save_hf(name, transformers.Dinov2WithRegistersForImageClassification(
        transformers.Dinov2WithRegistersConfig(
            **{**DINOV2, "num_hidden_layers": 2, "image_size": 28},
            use_swiglu_ffn=True, num_register_tokens=3, num_labels=5)), "dinov2_with_registers",
        inputs(1, 3, 28, 28), torch.float16,
        more={"_21x35": inputs(1, 3, 21, 35)})


@golden
def dinov2_swiglu(name):
    save_hf(name, transformers.Dinov2Model(transformers.Dinov2Config(
        **{**DINOV2, "num_hidden_layers": 2}, use_swiglu_ffn=True)), "dinov2",
        inputs(2, 3, 21, 21), torch.float16, keep=FEW)


@golden
def dinov3(name):
    save_hf(name, transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(
        **sizes(**square()), num_register_tokens=2)), "dinov3_vit", inputs(1, 3, 24, 24))


@golden
def dinov3_gated(name):  # SwiGLU, and a picture of another size
    save_hf(name, transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(
        **sizes(**square()), num_register_tokens=4, use_gated_mlp=True, hidden_act="silu",
        key_bias=True)), "dinov3_vit", inputs(1, 3, 24, 24), torch.float16,
        more={"_16x40": inputs(1, 3, 16, 40)})


# ---- transformers: video -------------------------------------------------------------------------


@golden
def vivit(name):
    save_hf(name, transformers.VivitForVideoClassification(transformers.VivitConfig(
        **sizes(16, 2, 24), image_size=16, num_frames=4, tubelet_size=[2, 8, 8], id2label=NAMES)),
        "vivit", inputs(2, 4, 3, 16, 16))


@golden
def vjepa2(name):
    save_hf(name, transformers.VJEPA2Model(transformers.VJEPA2Config(
        hidden_size=40, num_attention_heads=2, num_hidden_layers=2, mlp_ratio=1.5, crop_size=16,
        patch_size=8, frames_per_clip=6, tubelet_size=2, pred_hidden_size=8, pred_mlp_ratio=1.0,
        pred_num_attention_heads=1, pred_num_hidden_layers=1, pred_num_mask_tokens=1)), "vjepa2",
        inputs(1, 6, 3, 16, 16), torch.float16)


VIDEOMAE = dict(**sizes(16, 2, 24), image_size=16, patch_size=8, num_frames=4, tubelet_size=2)


@golden
def videomae(name):  # classifier over the mean of all tokens
    save_hf(name, transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(
        **VIDEOMAE, id2label=NAMES)), "videomae", inputs(2, 4, 3, 16, 16))


@golden
def videomae_first_token(name):
    save_hf(name, transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(
        **VIDEOMAE, use_mean_pooling=False, qkv_bias=False)), "videomae", inputs(1, 4, 3, 16, 16),
        torch.float16)


# ---- timm ----------------------------------------------------------------------------------------

def save_timm(name, architecture, x, dtype=torch.float32, num_classes=0, keep=None, stream=0.05,
              **args):
    """A folder as timm's hub has it: sizes in model_args, over those of the architecture."""
    folder = fresh(name)
    args = {"img_size": list(x.shape[-2:]), **args}
    model = timm.create_model(architecture, num_classes=num_classes, **args)
    model = rounded(randomise(model, stream), dtype)
    model.pretrained_cfg.update(input_size=tuple(x.shape[1:]), num_classes=num_classes)
    timm.models.save_for_hf(copy.deepcopy(model).to(dtype), folder, model_args=args,
                            safe_serialization=True)
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    write_reference(folder / "reference.safetensors", model, "timm", architecture, x, keep=keep)


TINY = dict(embed_dim=24, depth=2, num_heads=2, patch_size=8)
TINIER = {**TINY, "embed_dim": 16}


@golden
def timm_vit(name):
    save_timm(name, "vit_base_patch16_224", inputs(2, 3, 24, 24), num_classes=3, mlp_ratio=1.75,
              **TINIER)


@golden
def timm_vit_mean(name):  # the norm stands behind the mean; not square
    save_timm(name, "vit_base_patch16_224", inputs(2, 3, 16, 24), num_classes=3,
              global_pool="avg", mlp_ratio=1.75, **TINIER)


@golden
def timm_vit_no_class(name):
    save_timm(name, "vit_base_patch16_224", inputs(1, 3, 24, 24), torch.float16, num_classes=3,
              global_pool="avg", class_token=False, fc_norm=False, **TINIER)


@golden
def timm_vit_registers(name):  # as timm's DINOv2: registers without positions, LayerScale
    save_timm(name, "vit_small_patch14_reg4_dinov2", inputs(1, 3, 24, 24), torch.float16, **TINIER)


@golden
def timm_clip(name):
    save_timm(name, "vit_base_patch16_clip_quickgelu_224", inputs(1, 3, 24, 24), torch.float16,
              num_classes=12, **TINIER)


@golden
def timm_siglip(name):
    save_timm(name, "vit_base_patch16_siglip_224", inputs(1, 3, 24, 24), torch.float16, **TINIER)


@golden
def timm_eva(name):  # EVA: biases of q and v alone, a plain MLP, the norm behind the mean
    save_timm(name, "eva_giant_patch14_224", inputs(2, 3, 24, 24), torch.float16, num_classes=3,
              mlp_ratio=44 / 24, **TINIER)


@golden
def timm_eva02(name):  # RoPE scaled to a grid of 16, norms inside attention and gated MLP
    save_timm(name, "eva02_base_patch16_clip_224", inputs(1, 3, 24, 24), torch.float16,
              num_classes=3, **TINY)


@golden
def timm_eva02_packed(name):  # gate and linear part in one matrix; the norm behind the mean
    save_timm(name, "eva02_tiny_patch14_224", inputs(1, 3, 16, 24), torch.float16, num_classes=3,
              **TINIER)


@golden
def timm_eva02_post_norm(name):
    save_timm(name, "eva02_enormous_patch14_clip_224", inputs(1, 3, 24, 24), torch.float16,
              num_classes=3, stream=1.0, **{**TINIER, "mlp_ratio": 2.0})


@golden
def timm_pe(name):  # Perception Encoder
    save_timm(name, "vit_pe_core_base_patch16_224", inputs(1, 3, 24, 24), torch.float16,
              num_classes=10, attn_pool_num_heads=4, attn_pool_mlp_ratio=1.5, mlp_ratio=2.0,
              **TINY)


@golden
def timm_beit(name):  # relative positions a layer, biases of q and v, the norm behind the mean
    save_timm(name, "beit_base_patch16_224", inputs(1, 3, 16, 24), torch.float16, num_classes=3,
              mlp_ratio=1.75, **TINIER)


@golden
def timm_dinov3(name):  # RoPE, registers, the mean of patches with the norm in front
    save_timm(name, "vit_small_patch16_dinov3", inputs(2, 3, 16, 24), torch.float16,
              mlp_ratio=1.75, **TINIER)


@golden
def timm_gap(name):  # no class token, the mean of patches with the norm in front
    save_timm(name, "vit_base_patch16_siglip_gap_224", inputs(1, 3, 24, 24), torch.float16,
              mlp_ratio=1.75, **TINIER)


@golden
def timm_deit_distilled(name):
    save_timm(name, "deit_tiny_distilled_patch16_224", inputs(1, 3, 24, 24), torch.float16,
              num_classes=3, mlp_ratio=1.75, **TINIER)


# ---- open_clip -----------------------------------------------------------------------------------

def save_open_clip(name, model, config, x, dtype=torch.float32, text=None, keep=None,
                   weights="open_clip_model.safetensors"):
    folder = fresh(name)
    model = rounded(randomise(model), dtype)
    tensors = {k: v.to(dtype) for k, v in model.state_dict().items()}
    if weights.endswith(".bin"):
        torch.save({"state_dict": {"module." + k: v for k, v in tensors.items()}},
                   folder / weights)
    else:
        safetensors.torch.save_file(tensors, folder / weights)
    side = config["vision_cfg"]["image_size"]
    (folder / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": config, "preprocess_cfg": {
            "size": side, "mean": [0.481, 0.457, 0.408], "std": [0.268, 0.261, 0.275],
            "interpolation": "bicubic", "resize_mode": "shortest"}}, indent=1) + "\n")
    write_reference(folder / "reference.safetensors", model, "open_clip", "open_clip", x, keep=keep)
    if text is not None:
        write_reference(folder / "reference_text.safetensors", model, "open_clip", "open_clip",
                        text, "text", keep=keep)


OC_TEXT = dict(context_length=6, vocab_size=19, width=16, heads=2, layers=2)


def oc_config(text=None, **vision):
    return dict(embed_dim=12, vision_cfg=dict(
        image_size=24, layers=2, width=24, head_width=12, patch_size=8, mlp_ratio=1.75, **vision),
        text_cfg={**OC_TEXT, **(text or {})})


@golden
def open_clip_gelu(name):
    config = oc_config()
    save_open_clip(name, open_clip.CLIP(**config), config, inputs(1, 3, 24, 24), torch.float16,
                   text=TEXT_IDS)


@golden
def open_clip_quick_gelu(name):  # in an archive, with the names that training in parallel gives
    config = dict(oc_config(text=dict(pool_type="eos", eos_id=18)), quick_gelu=True)
    save_open_clip(name, open_clip.CLIP(**config), config, inputs(1, 3, 24, 24), torch.float16,
                   text=TEXT_IDS, weights="open_clip_pytorch_model.bin")


@golden
def open_clip_mean(name):  # no norm before the blocks, LayerScale, the norm behind the mean
    config = oc_config(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True, ls_init_value=1.0)
    save_open_clip(name, open_clip.CLIP(**config), config, inputs(1, 3, 24, 24), torch.float16)


@golden
def open_clip_coca(name):
    config = oc_config(attentional_pool=True, attn_pooler_heads=3, attn_pooler_queries=5,
                       output_tokens=True)
    config["text_cfg"].update(embed_cls=True, output_tokens=True, layers=1)
    config["multimodal_cfg"] = dict(context_length=6, vocab_size=19, width=8, heads=1, layers=1,
                                    attn_pooler_heads=1)
    model = open_clip.CoCa(**config)
    save_open_clip(name, model, config, inputs(1, 3, 24, 24), torch.float16)


@golden
def open_clip_trunk(name):
    """EVA-02 CLIP: the vision tower is timm's. open_clip passes no sizes on to it, so that the tiny
    one is put in its place, and its sizes stand beside its name as in timm's own config."""
    from open_clip.timm_model import TimmModel
    args = dict(img_size=24, **TINIER)
    config = oc_config(timm_model_name="eva02_base_patch16_clip_224", timm_model_pretrained=False,
                       timm_pool="token", timm_proj=None)
    config["vision_cfg"] = {k: v for k, v in config["vision_cfg"].items()
                            if k.startswith("timm") or k == "image_size"}
    model = open_clip.CustomTextCLIP(**oc_config())
    visual = TimmModel.__new__(TimmModel)
    torch.nn.Module.__init__(visual)
    visual.trunk = timm.create_model("eva02_base_patch16_clip_224", num_classes=12,
                                     global_pool="token", **args)
    visual.head = torch.nn.Sequential()
    model.visual = visual
    config["vision_cfg"]["timm_model_args"] = args
    config["custom_text"] = True  # the text tower's names begin with "text."
    save_open_clip(name, model, config, inputs(1, 3, 24, 24), torch.float16, text=TEXT_IDS)


# ---- models that no library has ------------------------------------------------------------------

@golden
def vjepa1(name):
    folder = fresh(name)
    model = randomise(reference.VJepa1(24, 2, 2, 16, 8, 4, 2, mlp_ratio=1.5))
    torch.save({"target_encoder": {"module.backbone." + k: v for k, v in
                                   model.state_dict().items()}, "epoch": 1},
               folder / "vjepa.pth")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "vjepa", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "mlp_ratio": 1.5, "crop_size": 16, "patch_size": 8, "frames_per_clip": 4,
        "tubelet_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6}, indent=1) + "\n")
    write_reference(folder / "reference.safetensors", model, "meta", "vjepa",
                    inputs(2, 4, 3, 16, 16))


# ---- full sizes ----------------------------------------------------------------------------------

def full_hf(model, processor=None):
    def write(folder):
        randomise(model(), 0.5).save_pretrained(folder)
        if processor:
            processor().save_pretrained(folder)
    return write


def full_timm(architecture):
    def write(folder):
        model = randomise(timm.create_model(architecture), 0.5)
        timm.models.save_for_hf(model, folder, safe_serialization=True)
        (pathlib.Path(folder) / "pytorch_model.bin").unlink(missing_ok=True)
    return write


def full_open_clip(architecture):
    def write(folder):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        config = open_clip.get_model_config(architecture)
        model = randomise(open_clip.create_model(architecture), 0.5)
        safetensors.torch.save_file(model.state_dict(),
                                    pathlib.Path(folder) / "open_clip_model.safetensors")
        (pathlib.Path(folder) / "open_clip_config.json").write_text(json.dumps({
            "model_cfg": config, "preprocess_cfg": {
                "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}}))
    return write


def large(**more):
    return dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, **more)


T = transformers
FULL = {
    "clip": full_hf(lambda: T.CLIPVisionModelWithProjection(T.CLIPVisionConfig(
        **large(intermediate_size=4096), patch_size=14, projection_dim=768))),
    "vit": full_hf(lambda: T.ViTForImageClassification(T.ViTConfig(num_labels=1000))),
    "deit": full_hf(lambda: T.DeiTForImageClassificationWithTeacher(T.DeiTConfig())),
    "dinov2": full_hf(lambda: T.Dinov2Model(T.Dinov2Config(image_size=518)), T.BitImageProcessor),
    "dinov2_with_registers": full_hf(lambda: T.Dinov2WithRegistersModel(
        T.Dinov2WithRegistersConfig(**large(), image_size=518, patch_size=14)),
        T.BitImageProcessor),
    "dinov3_vit": full_hf(lambda: T.DINOv3ViTModel(T.DINOv3ViTConfig(
        **large(intermediate_size=4096), num_register_tokens=4))),
    "siglip": full_hf(lambda: T.SiglipVisionModel(T.SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
        image_size=224, patch_size=14))),
    "siglip2": full_hf(lambda: T.Siglip2VisionModel(T.Siglip2VisionConfig())),
    "ijepa": full_hf(lambda: T.IJepaModel(T.IJepaConfig(
        hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120,
        patch_size=14, layer_norm_eps=1e-6))),
    "vit_mae": full_hf(lambda: T.ViTMAEModel(T.ViTMAEConfig())),
    "beit": full_hf(lambda: T.BeitForImageClassification(T.BeitConfig(
        use_relative_position_bias=True, num_labels=1000))),
    "vivit": full_hf(lambda: T.VivitForVideoClassification(T.VivitConfig(
        num_labels=400, num_frames=8))),
    "vjepa2": full_hf(lambda: T.VJEPA2Model(T.VJEPA2Config(frames_per_clip=8))),
    "videomae": full_hf(lambda: T.VideoMAEForVideoClassification(T.VideoMAEConfig(
        num_labels=400, num_frames=8))),
    "timm_vit": full_timm("vit_base_patch16_224"),
    "eva": full_timm("eva02_large_patch14_224"),
    "pe": full_timm("vit_pe_core_base_patch16_224"),
    "open_clip": full_open_clip("ViT-B-16"),
    "coca": full_open_clip("coca_ViT-B-32"),
    "open_clip_eva": full_open_clip("EVA02-B-16"),
    "open_clip_pe": full_open_clip("PE-Core-B-16"),
    "open_clip_siglip": full_open_clip("ViT-B-16-SigLIP"),
}


def main(args):
    torch.set_num_threads(1)
    if args[:1] == ["--full"]:
        if len(args) != 3 or args[1] not in FULL:
            sys.exit(f"usage: make_vit.py --full FAMILY DIR, FAMILY one of {', '.join(FULL)}")
        seeded(args[1])
        FULL[args[1]](args[2])
        return
    unknown = set(args) - set(GOLDENS)
    if unknown:
        sys.exit(f"no golden model {', '.join(sorted(unknown))}; there are {', '.join(GOLDENS)}")
    for name in args or GOLDENS:
        seeded(name)
        GOLDENS[name](name)
        size = sum(f.stat().st_size for f in (OUT / name).rglob("*") if f.is_file())
        print(f"{name:24} {size / 1000:7.1f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
