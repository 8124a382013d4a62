"""Records what a model of transformers, timm or open_clip computes at every hook point of Refract.

record(model, library, family, input) runs the library's own forward pass and gives {name: tensor}
with the names, shapes and meanings of include/refract/vit.h, and "input", "embedding", "logits".
Values are taken at the borders of the library's modules. Where there is none (scores, patterns,
rotated q and k) they are computed from the library's own q, k and v with its own rotary function,
and every sum is checked: scores give the pattern, pattern times v gives z, and the branches add up
to the stream.
"""

import contextlib
import sys

import torch

OUTPUTS = ("input", "embedding", "logits")
CLOSE = 1e-5  # of the checks, relative to a token's norm; sums of fp32 differ by less


class NotRecorded(Exception):
    """A model that is built in a way that nobody records here; the text says which."""


def need(is_so, what):
    if not is_so:
        raise NotRecorded(what)


def first(module, *paths):
    """The first of the dotted `paths` that leads to something, or None."""
    for path in paths:
        found = module
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    return None


def heads(x, n_heads):
    """[B, T, H * dh] -> [B, T, H, dh]"""
    return x.reshape(*x.shape[:2], n_heads, -1)


def check(what, got, want):
    finite = torch.isfinite(want)
    got, want = (torch.where(finite, x, 0).double() for x in (got, want))
    error = (got - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=1e-3)
    assert error.max() <= CLOSE, f"{what}: recomputed values differ by {error.max():.1e}"


def dense_scores(q, k, scale, mask=None):
    """Scores of q, k [B, H, T, dh]; what a library masks with its lowest number is -inf."""
    scores = q @ k.transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask
    return scores.masked_fill(scores < -1e30, -torch.inf)


class Recorder:
    """The hooks of one pass. `edits` {name: function} replaces values at some points; `keep` says
    by name which large values (patterns and inside MLPs) are kept."""

    def __init__(self, edits=None, keep=None):
        self.points, self.edits, self.handles, self.undo = {}, edits or {}, [], []
        self.keep = keep or (lambda name: True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
        for step in self.undo:
            step()

    def put(self, name, value):
        """Keeps the value; gives what the pass goes on with."""
        if name in self.edits:
            value = self.edits[name](value)
        if self.keep(name) or not (".attn." in name or ".mlp." in name):
            self.points[name] = value.detach().float().clone()
        return value

    def on_output(self, module, name, shape=lambda x: x, unshape=lambda x: x):
        def hook(_, __, out):
            value = self.put(name, shape(out[0] if isinstance(out, tuple) else out))
            return unshape(value) if name in self.edits else None
        self.handles.append(module.register_forward_hook(hook))

    def on_input(self, module, name, shape=lambda x: x):
        def hook(_, args, kwargs):
            value = args[0] if args else next(iter(kwargs.values()))
            value = self.put(name, shape(value))
            return ((value, *args[1:]), kwargs) if name in self.edits else None
        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def on_norm(self, module, prefix, shape=lambda x: x):
        """hook_scale and hook_normalized of a norm that is a module."""
        def hook(norm, args, out):
            x = args[0]
            variance = x.var(-1, unbiased=False, keepdim=True)
            self.put(prefix + ".hook_scale", shape((variance + norm.eps).sqrt()))
            value = self.put(prefix + ".hook_normalized", shape(out))
            return value if prefix + ".hook_normalized" in self.edits else None
        self.handles.append(module.register_forward_hook(hook))

    def on_patches(self, module):
        """hook_embed out of a convolution [B, d, ...] or a linear map [B, N, d]."""
        convolves = isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d))
        self.on_output(module, "hook_embed",
                       lambda x: x.flatten(2).transpose(1, 2) if convolves else x)

    def attention(self, at, q, k, v, scale, mask, pattern=None):
        """Scores, pattern and z of q, k, v [B, H, T, dh], which are rotated already. `pattern` is
        the library's own, where it shows it."""
        scores = self.put(at + "hook_attn_scores", dense_scores(q, k, scale, mask))
        own = scores.softmax(-1)
        if pattern is not None and at + "hook_attn_scores" not in self.edits:
            check(at + "hook_pattern", own, pattern)
            own = pattern
        own = self.put(at + "hook_pattern", own)
        return self.put(at + "hook_z", (own @ v).transpose(1, 2).contiguous())

    def check_sums(self, n_layers):
        p = self.points
        for i in range(n_layers):
            at = f"blocks.{i}."
            check(at + "hook_resid_mid", p[at + "hook_resid_pre"] + p[at + "hook_attn_out"],
                  p[at + "hook_resid_mid"])
            check(at + "hook_resid_post", p[at + "hook_resid_mid"] + p[at + "hook_mlp_out"],
                  p[at + "hook_resid_post"])


# ---- transformers --------------------------------------------------------------------------------

TEXT = ("text_model", "text_projection")
VISION = ("vision_model", "visual_projection")
ROTARY = ("dinov3_vit", "vjepa2")


class Transformers:
    """A vision or text model of transformers."""

    def __init__(self, model, family, tower):
        model.set_attn_implementation("eager")
        self.model, self.family, self.is_text = model, family, tower == "text"
        inner, projection = TEXT if self.is_text else VISION
        base = getattr(model, model.base_model_prefix, model)
        self.tower = first(model, inner) or first(base, inner) or base
        if first(self.tower, "embeddings", "encoder.embeddings") is None:
            self.tower = model  # DINOv3: its prefix names the blocks alone
        self.projection = first(model, projection)
        if family == "vjepa2":
            self.tower = self.tower.encoder
        self.embeddings = self.tower.embeddings
        self.layers = first(self.tower, "encoder.layers", "encoder.layer", "model.layer", "layers",
                            "layer")
        self.config = self.tower.config
        self.n_heads = self.config.num_attention_heads
        self.norm_behind_pool = self.find_norm_behind_pool()

    def find_norm_behind_pool(self):
        if not getattr(self.config, "use_mean_pooling", False):
            return None
        return first(self.model, "fc_norm") or first(self.tower, "pooler.layernorm")

    def attach(self, r):
        if self.is_text:
            r.on_output(self.embeddings.token_embedding, "hook_embed")
        else:
            r.on_patches(first(self.embeddings, "patch_embeddings.projection",
                               "patch_embeddings.proj", "patch_embeddings", "patch_embedding"))
        r.on_output(self.embeddings, "hook_full_embed")
        if first(self.tower, "pre_layrnorm") is not None:
            r.on_norm(self.tower.pre_layrnorm, "ln_pre")
            r.on_output(self.tower.pre_layrnorm, "hook_ln_pre")
        self.attentions = {}
        for i, layer in enumerate(self.layers):
            self.attach_layer(r, f"blocks.{i}.", layer)
        self.patch_attention(r)
        norm = self.norm_behind_pool or first(self.tower, "post_layernorm", "final_layer_norm",
                                              "layernorm", "norm")
        if norm is not None and not isinstance(norm, torch.nn.Identity):
            r.on_norm(norm, "ln_final")
            r.on_output(norm, "hook_ln_final")

    def finish(self, r):
        """CLIP norms its class token alone: the same norm of every token."""
        if first(self.tower, "post_layernorm") is None or "siglip" in self.family:
            return
        pooled = r.points["hook_ln_final"]
        tokens = r.points[f"blocks.{len(self.layers) - 1}.hook_resid_post"]
        self.tower.post_layernorm(tokens.to(self.tower.post_layernorm.weight.dtype))
        check("hook_ln_final", r.points["hook_ln_final"][:, 0], pooled)

    def attach_layer(self, r, at, layer):
        ln2 = first(layer, "layer_norm2", "norm2", "layernorm_after")
        attention = first(layer, "self_attn", "attention.attention", "attention")
        r.on_input(layer, at + "hook_resid_pre")
        r.on_norm(first(layer, "layer_norm1", "norm1", "layernorm_before"), at + "ln1")
        for which, long in (("q", "query"), ("k", "key"), ("v", "value")):
            r.on_output(first(attention, which + "_proj", long), f"{at}attn.hook_{which}",
                        lambda x: heads(x, self.n_heads), lambda x: x.flatten(2))
        self.attentions[id(attention)] = at + "attn."
        out = first(attention, "out_proj", "o_proj", "proj") or layer.attention.output.dense
        scale1, scale2 = (first(layer, f"layer_scale{n}") for n in (1, 2))
        lambdas = [getattr(layer, f"lambda_{n}", 1.0) for n in (1, 2)]  # BEiT: not a module
        r.on_output(scale1 or out, at + "hook_attn_out", lambda x: lambdas[0] * x)
        r.on_input(ln2, at + "hook_resid_mid")
        r.on_norm(ln2, at + "ln2")
        down = self.attach_mlp(r, at, layer)
        r.on_output(scale2 or down, at + "hook_mlp_out", lambda x: lambdas[1] * x)
        r.on_output(layer, at + "hook_resid_post")

    def attach_mlp(self, r, at, layer):
        """Gives the module of the last linear map."""
        gate = first(layer, "mlp.gate_proj")
        if gate is not None:
            r.on_output(gate, at + "mlp.hook_pre")
            r.on_output(layer.mlp.up_proj, at + "mlp.hook_pre_linear")
            r.on_input(layer.mlp.down_proj, at + "mlp.hook_post")
            return layer.mlp.down_proj
        r.on_output(first(layer, "mlp.fc1", "mlp.up_proj", "intermediate.dense"),
                    at + "mlp.hook_pre")
        r.on_output(first(layer, "mlp.activation_fn", "mlp.activation", "mlp.act_fn",
                          "intermediate.intermediate_act_fn"), at + "mlp.hook_post")
        return first(layer, "mlp.fc2", "mlp.down_proj", "output.dense")

    def patch_attention(self, r):
        """The module's eager attention, with its q, k, v, mask and pattern shown."""
        module = sys.modules[type(first(self.layers[0], "self_attn", "attention.attention",
                                        "attention")).__module__]
        eager = module.eager_attention_forward

        def wrapped(attention, q, k, v, mask, scaling=None, **rest):
            out, pattern = eager(attention, q, k, v, mask, scaling=scaling, **rest)
            at = self.attentions.get(id(attention))
            if at is None:
                return out, pattern
            if self.family in ROTARY:
                r.put(at + "hook_rot_q", q.transpose(1, 2).contiguous())
                r.put(at + "hook_rot_k", k.transpose(1, 2).contiguous())
            z = r.attention(at, q, k, v, scaling or q.shape[-1] ** -0.5, mask, pattern)
            if not r.edits:
                check(at + "hook_z", z, out)
            return z, pattern

        module.eager_attention_forward = wrapped
        r.undo.append(lambda: setattr(module, "eager_attention_forward", eager))

    def run(self, x):
        """(pooled, embedding, logits or None), by the library's own calls."""
        if self.is_text or self.family in ("clip", "metaclip_2", "siglip", "siglip2"):
            return self.run_clip(x)
        if self.family == "vit_mae":
            self.model.config.mask_ratio = self.tower.config.mask_ratio = 0.0
            n_patches = self.embeddings.patch_embeddings.num_patches
            noise = torch.arange(float(n_patches)).expand(len(x), -1)
            out = self.tower(x, noise=noise)  # ascending: the order is kept
        elif self.family == "vjepa2":
            out = self.tower(x)
        elif self.model is self.tower:
            out = self.model(x)
        else:
            kept = {}
            handle = self.tower.register_forward_hook(lambda _, __, out: kept.update(out))
            logits = self.model(x).logits
            handle.remove()
            pooled = self.pool(kept["last_hidden_state"])
            return pooled, pooled, logits
        pooled = self.pool(out.last_hidden_state)
        return pooled, pooled, None

    def pool(self, tokens):
        """As the library's own pooler or classifier reads the tokens."""
        if self.family == "beit":
            return self.tower.pooler(tokens)
        if self.family == "videomae":
            if getattr(self.config, "use_mean_pooling", False):
                return self.model.fc_norm(tokens.mean(1))
            return tokens[:, 0]
        if self.family in ("ijepa", "vjepa2"):
            return tokens.mean(1)
        return tokens[:, 0]

    def run_clip(self, x):
        if self.family == "siglip2" and not self.is_text:
            out = self.tower(**self.siglip2_patches(x))
        else:
            out = self.tower(x)
        pooled = embedding = out.pooler_output
        if self.projection is not None:
            embedding = self.projection(pooled)
        elif self.family == "siglip" and self.is_text:
            pooled = out.last_hidden_state[:, -1]
        return pooled, embedding, None

    def siglip2_patches(self, x):
        """Pictures as the processor hands them on: rows of patches, (y, x, channel) inside one."""
        p = self.config.patch_size
        b, c, h, w = x.shape
        rows = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(
            b, (h // p) * (w // p), -1)
        return {"pixel_values": rows,
                "pixel_attention_mask": torch.ones(rows.shape[:2], dtype=torch.long),
                "spatial_shapes": torch.tensor([[h // p, w // p]] * b)}

    def position(self, x, full):
        """hook_pos_embed [1, T, d], or None."""
        e, d = self.embeddings, full.shape[-1]
        if self.is_text:
            return e.position_embedding.weight[None, :full.shape[1]]
        height, width = x.shape[-2:]
        if self.family in ROTARY:
            return None
        if self.family == "siglip2":
            side = e.position_embedding_size
            return e.resize_positional_embeddings(
                e.position_embedding.weight.reshape(side, side, -1),
                torch.tensor([[height // e.patch_size, width // e.patch_size]]), full.shape[1])
        if first(e, "position_embedding") is not None:
            return e.position_embedding.weight[None]
        if e.position_embeddings is None:
            return None
        if self.family not in ("dinov2", "dinov2_with_registers"):
            return e.position_embeddings.to(full.dtype)
        n_registers = getattr(self.config, "num_register_tokens", 0)
        rows = e.interpolate_pos_encoding(full[:, n_registers + 1:], height, width)
        return torch.cat([rows[:, :1], rows.new_zeros(1, n_registers, d), rows[:, 1:]], 1)


# ---- timm ----------------------------------------------------------------------------------------

TIMM_BLOCKS = {"Block", "EvaBlock", "EvaBlockPostNorm"}


class Timm:
    """A VisionTransformer or Eva of timm, or a tower of its blocks."""

    def __init__(self, model, family, tower):
        self.model = self.tower = model
        blocks = {type(block).__name__ for block in first(model, "blocks") or ()}
        need(blocks and blocks <= TIMM_BLOCKS,
             f"{type(model).__name__} with {', '.join(sorted(blocks)) or 'no blocks'}: of timm's "
             f"blocks, {', '.join(sorted(TIMM_BLOCKS))} are recorded")
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        self.layers = model.blocks
        self.behind_pool = first(model, "fc_norm")
        if isinstance(self.behind_pool, torch.nn.Identity):
            self.behind_pool = None

    def attach(self, r):
        t = self.tower
        r.on_patches(t.patch_embed.proj)
        norm_pre = first(t, "norm_pre")
        has_norm_pre = norm_pre is not None and not isinstance(norm_pre, torch.nn.Identity)
        r.on_input(norm_pre if has_norm_pre else self.layers[0], "hook_full_embed")
        if has_norm_pre:
            r.on_norm(norm_pre, "ln_pre")
            r.on_output(norm_pre, "hook_ln_pre")
        for i, block in enumerate(self.layers):
            self.attach_block(r, f"blocks.{i}.", block)
        norm = self.behind_pool or t.norm
        if not isinstance(norm, torch.nn.Identity):
            r.on_norm(norm, "ln_final")
            r.on_output(norm, "hook_ln_final")

    def attach_block(self, r, at, block):
        norm_is_behind = type(block).__name__ == "EvaBlockPostNorm"
        gammas = [getattr(block, f"gamma_{n}", None) for n in (1, 2)]  # Eva: not modules
        r.on_input(block, at + "hook_resid_pre")
        r.on_norm(block.norm1, at + "ln1")
        self.attach_attention(r, at, block)
        out1, out2 = (block.norm1, block.norm2) if norm_is_behind else (
            first(block, "ls1") or block.attn, first(block, "ls2") or block.mlp)
        r.on_output(out1, at + "hook_attn_out", lambda x: x if gammas[0] is None else gammas[0] * x)
        r.on_input(block.mlp if norm_is_behind else block.norm2, at + "hook_resid_mid")
        r.on_norm(block.norm2, at + "ln2")
        self.attach_mlp(r, at + "mlp.", block.mlp)
        r.on_output(out2, at + "hook_mlp_out", lambda x: x if gammas[1] is None else gammas[1] * x)
        r.on_output(block, at + "hook_resid_post")

    def attach_mlp(self, r, at, mlp):
        if first(mlp, "fc1_g") is not None:
            r.on_output(mlp.fc1_g, at + "hook_pre")
            r.on_output(mlp.fc1_x, at + "hook_pre_linear")
        elif type(mlp).__name__ == "GluMlp":
            need(not mlp.gate_last, "a GluMlp with its gate last is not recorded")
            r.on_input(mlp.act, at + "hook_pre")
            r.on_output(mlp.fc1, at + "hook_pre_linear", lambda x: x.chunk(2, -1)[1])
        else:
            r.on_output(mlp.fc1, at + "hook_pre")
        r.on_input(mlp.norm, at + "hook_post")
        if not isinstance(mlp.norm, torch.nn.Identity):
            r.on_norm(mlp.norm, at + "ln")

    def attach_attention(self, r, at, block):
        attn, kept = block.attn, {}
        at += "attn."
        q_norm, inner_norm = first(attn, "q_norm"), first(attn, "norm")  # Beit has neither
        need(q_norm is None or isinstance(q_norm, torch.nn.Identity),
             "attention with a norm of q and k is not recorded")
        need(first(attn, "gate") is None, "attention with a gate is not recorded")

        def begin(_, args, kwargs):
            kept.update(x=args[0], rope=kwargs.get("rope"),
                        shared=kwargs.get("shared_rel_pos_bias"))

        def end(_, __, ___):
            q, k, v = (x.transpose(1, 2) for x in self.qkv(attn, kept["x"]))
            if q_norm is not None:
                check(at + "hook_q", q, kept["q"])
                check(at + "hook_k", k, kept["k"])
            for which, x in (("q", q), ("k", k), ("v", v)):
                r.put(at + "hook_" + which, x.transpose(1, 2).contiguous())
            if kept["rope"] is not None:
                q, k = (self.rotate(attn, x, kept["rope"]) for x in (q, k))
                r.put(at + "hook_rot_q", q.transpose(1, 2).contiguous())
                r.put(at + "hook_rot_k", k.transpose(1, 2).contiguous())
            z = r.attention(at, q, k, v, attn.scale, self.score_bias(attn, kept["shared"]),
                            kept["pattern"])
            check(at + "hook_z", z.flatten(2), kept["z"])

        def keep(name):
            return lambda _, args: kept.update({name: args[0]})

        r.handles.append(attn.register_forward_pre_hook(begin, with_kwargs=True))
        if q_norm is not None:
            r.handles.append(q_norm.register_forward_pre_hook(keep("q")))
            r.handles.append(attn.k_norm.register_forward_pre_hook(keep("k")))
        r.handles.append(attn.attn_drop.register_forward_pre_hook(keep("pattern")))
        r.handles.append((inner_norm or attn.proj).register_forward_pre_hook(keep("z")))
        r.handles.append(attn.register_forward_hook(end))
        if inner_norm is not None and not isinstance(inner_norm, torch.nn.Identity):
            r.on_norm(inner_norm, at + "ln")

    def score_bias(self, attn, shared):
        """Beit's relative position biases [1, H, T, T]: the layer's own, and the shared ones."""
        if first(attn, "relative_position_bias_table") is None:
            return shared
        own = attn._get_rel_pos_bias()
        return own if shared is None else own + shared

    def qkv(self, attn, x):
        """q, k, v [B, T, H, dh]"""
        if attn.qkv is None:
            parts = [attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)]
        elif first(attn, "q_bias") is not None:
            bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
            parts = torch.nn.functional.linear(x, attn.qkv.weight, bias).chunk(3, -1)
        else:
            parts = attn.qkv(x).chunk(3, -1)
        return [heads(part, attn.num_heads) for part in parts]

    def rotate(self, attn, x, rope):
        from timm.layers import apply_rot_embed_cat
        n = attn.num_prefix_tokens
        half = getattr(attn, "rotate_half", False)
        return torch.cat([x[:, :, :n], apply_rot_embed_cat(x[:, :, n:], rope, half=half)], 2)

    def run(self, x):
        tokens = self.model.forward_features(x)
        if first(self.model, "dist_token") is not None:
            # the class token, as in transformers' DeiT; timm means the mean with the distilled one,
            # which stands for no head's input: each token has a head of its own
            pooled = tokens[:, 0]
        else:
            pooled = self.model.forward_head(tokens, pre_logits=True)
        if isinstance(self.model.head, torch.nn.Identity):
            return pooled, pooled, None
        return pooled, pooled, self.model(x)

    def position(self, x, full):
        rows = self.tower.pos_embed
        if rows is None:
            return None
        missing = full.shape[1] - rows.shape[1]  # prefix tokens without one
        return torch.cat([rows.new_zeros(1, missing, rows.shape[2]), rows], 1)


# ---- open_clip -----------------------------------------------------------------------------------

class OpenClip:
    """A vision or text transformer of open_clip."""

    def __init__(self, model, family, tower):
        self.model, self.is_text = model, tower == "text"
        if self.is_text:
            self.tower = first(model, "text") or model
            self.projection = first(self.tower, "text_projection")
            need(first(self.tower, "cls_emb") is None, "CoCa's text tower is not recorded")
        else:
            self.tower = model.visual
            self.projection = self.tower.proj
        self.layers = self.tower.transformer.resblocks

    def attach(self, r):
        t = self.tower
        if self.is_text:
            r.on_output(t.token_embedding, "hook_embed")
            r.on_input(t.transformer, "hook_full_embed")
        else:
            r.on_patches(t.conv1)
            r.on_input(t.ln_pre, "hook_full_embed")
            if not isinstance(t.ln_pre, torch.nn.Identity):
                r.on_norm(t.ln_pre, "ln_pre")
                r.on_output(t.ln_pre, "hook_ln_pre")
        for i, block in enumerate(self.layers):
            self.attach_block(r, f"blocks.{i}.", block)
        coca = not self.is_text and t.attn_pool is not None  # reads its first query alone
        norm = t.ln_final if self.is_text else t.ln_post
        r.on_norm(norm, "ln_final", (lambda x: x[:, 0]) if coca else lambda x: x)
        r.on_output(norm, "hook_ln_final", (lambda x: x[:, 0]) if coca else lambda x: x)

    def attach_block(self, r, at, block):
        need(type(block).__name__ == "ResidualAttentionBlock",
             f"a tower of {type(block).__name__} is not recorded")
        r.on_input(block, at + "hook_resid_pre")
        r.on_norm(block.ln_1, at + "ln1")

        def attended(attn, args, kwargs, out):
            parts = torch.nn.functional.linear(args[0], attn.in_proj_weight, attn.in_proj_bias)
            parts = [heads(x, attn.num_heads) for x in parts.chunk(3, -1)]
            for which, x in zip("qkv", parts):
                r.put(f"{at}attn.hook_{which}", x)
            q, k, v = (x.transpose(1, 2) for x in parts)
            z = r.attention(at + "attn.", q, k, v, q.shape[-1] ** -0.5, kwargs.get("attn_mask"))
            check(at + "hook_z", attn.out_proj(z.flatten(2)), out[0])

        r.handles.append(block.attn.register_forward_hook(attended, with_kwargs=True))
        r.on_output(block.ls_1, at + "hook_attn_out")
        r.on_input(block.ln_2, at + "hook_resid_mid")
        r.on_norm(block.ln_2, at + "ln2")
        r.on_output(block.mlp.c_fc, at + "mlp.hook_pre")
        r.on_output(block.mlp.gelu, at + "mlp.hook_post")
        r.on_output(block.ls_2, at + "hook_mlp_out")
        r.on_output(block, at + "hook_resid_post")

    def run(self, x):
        if self.is_text:
            from open_clip.transformer import text_global_pool
            kept = {}
            handle = self.tower.ln_final.register_forward_hook(
                lambda _, __, out: kept.update(tokens=out))
            embedding = self.model.encode_text(x)
            handle.remove()
            kind = first(self.model, "text_pool_type") or self.tower.pool_type
            eos = getattr(self.model, "text_eos_id", getattr(self.tower, "eos_id", None))
            return text_global_pool(kept["tokens"], x, kind, eos), embedding, None
        t = self.tower
        embedding = t(x)
        embedding = embedding[0] if isinstance(embedding, tuple) else embedding
        pooled = t._pool(t.transformer(t._embeds(x)))[0]
        check("embedding", pooled if t.proj is None else pooled @ t.proj, embedding)
        return pooled, embedding, None

    def position(self, x, full):
        return self.tower.positional_embedding[None, :full.shape[1]]


class OpenClipTrunk(Timm):
    """A timm model inside open_clip: its head, or what stands behind it, is a projection."""

    def __init__(self, model, family, tower):
        super().__init__(model.visual.trunk, family, tower)
        self.visual = model.visual

    def run(self, x):
        pooled = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return pooled, self.visual(x), None


# ---- models that no library has ------------------------------------------------------------------

class VJepa1(torch.nn.Module):
    """V-JEPA's encoder (2024), written here as no library has it: tubelets by a 3-D convolution,
    fixed positions that the file stores, timm's blocks, a final norm; no class token."""

    def __init__(self, width, depth, n_heads, side, patch, frames, tubelet, mlp_ratio=4.0):
        super().__init__()
        from timm.models.vision_transformer import Block
        norm = lambda d, **kw: torch.nn.LayerNorm(d, eps=1e-6, **kw)
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv3d(3, width, (tubelet, patch, patch),
                                                (tubelet, patch, patch))
        n = (frames // tubelet) * (side // patch) ** 2
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, n, width), requires_grad=False)
        self.blocks = torch.nn.ModuleList([
            Block(width, n_heads, mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth)])
        self.norm = norm(width)

    def forward(self, clips):
        x = self.patch_embed.proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Meta(Timm):
    def run(self, x):
        pooled = self.model(x).mean(1)
        return pooled, pooled, None


# ---- recording -----------------------------------------------------------------------------------

def adapter(model, library, family, tower="vision"):
    if library == "open_clip" and tower == "vision" and first(model, "visual.trunk") is not None:
        return OpenClipTrunk(model, family, tower)
    kinds = {"transformers": Transformers, "timm": Timm, "open_clip": OpenClip, "meta": Meta}
    return kinds[library](model, family, tower)


def record(model, library, family, x, tower="vision", edits=None, keep=None):
    """{name: fp32 tensor} of one pass over `x`: pictures [B, C, H, W], clips [B, F, C, H, W] or
    token ids [B, T]. With `edits` ({label: {point: function}}) also "edited/<label>": the embedding
    of a pass in which those points are replaced. `keep` says by name which points are wanted. The
    pass is made in the model's own precision."""
    model = model.eval()
    known = adapter(model, library, family, tower)
    if x.is_floating_point():
        x = x.to(next(model.parameters()).dtype)
    with torch.no_grad(), contextlib.ExitStack() as stack:
        plain = known.run(x)
        r = stack.enter_context(Recorder(keep=keep))
        known.attach(r)
        pooled, embedding, logits = known.run(x)
        check("embedding", embedding, plain[1])  # the hooks changed nothing
        if hasattr(known, "finish"):
            known.finish(r)
        r.check_sums(len(known.layers))
        found = {"input": x, "embedding": embedding}
        if logits is not None:
            found["logits"] = logits
        full = r.points["hook_full_embed"]
        position = known.position(x, full)
        if position is not None:
            found["hook_pos_embed"] = position.expand_as(full)
        found |= r.points
        found["hook_pooled"] = pooled
        classifies = logits is not None and embedding is pooled
        found["hook_post_head_pre_normalize"] = logits if classifies else embedding
    for label, edit in (edits or {}).items():
        with torch.no_grad(), Recorder(edit) as r:
            known.attach(r)
            found["edited/" + label] = known.run(x)[1]
    return {name: (value.float() if value.is_floating_point() else value).contiguous().clone()
            for name, value in found.items()
            if keep is None or name in OUTPUTS or "/" in name or keep(name)}
