#!/usr/bin/env bash
# refract info: a model's folder, a name of the registry, an architecture, the registry itself.
. "$(dirname "$0")/lib.sh"

golden=$source_dir/tests/golden/vit

expect_exit 0 "$refract" info
expect_in out.txt "open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"
expect_in out.txt "files of timm:"
if command -v python3 >/dev/null; then # launch/fetch-model reads the registry's source
    n=$("$refract" info | sed -n 's/^\([0-9]*\) models\..*/\1/p')
    ((n == $(python3 "$source_dir/launch/lib/registry.py" | wc -l))) || fail "fetch-model knows other names than the $n of info"
fi
expect_exit 0 "$refract" info models siglip2
expect_in out.txt "google/siglip2-base-patch16-naflex"
! grep -q dinov2 out.txt || fail "'models siglip2' lists others"

expect_exit 0 "$refract" info openai/clip-vit-large-patch14
expect_in out.txt "width 1024, 24 layers, 16 heads of 64, MLP 4096 with quick GELU, eps 1e-05"
expect_in out.txt "T = 257 tokens (1 CLS, N = 256 patches)"
grep -qE 'blocks.0.attn.hook_result +\[B, 257, 16, 1024\] +on request' out.txt || fail "shape of hook_result"
expect_exit 0 "$refract" info vjepa_v1_vit_huge
expect_in out.txt "note: Meta's archive"
expect_exit 0 "$refract" info eva02_large_patch14_clip_336
expect_in out.txt "with rotary positions over the pixel grid, a norm before W_O, a gated MLP, a norm inside the MLP"

expect_exit 0 "$refract" info "$golden/vjepa2"
expect_in out.txt "clips of 6 frames of 16 x 16, tubelets of 2 x 8 x 8: T = 12 tokens"
expect_exit 0 "$refract" info "$golden/open_clip_gelu" tower=text
expect_in out.txt "texts of T = 6 tokens out of 19 ids"
expect_exit 0 "$refract" info "$golden/kandinsky"
expect_in out.txt "projected to 12"
printf 'like: vit\nfamily: own\n' >row.yaml
expect_exit 0 "$refract" info "$golden/vit" row=row.yaml
expect_in out.txt "(family own)"
printf 'like: vit\nnames: {pach: x}\n' >row.yaml
expect_exit 1 "$refract" info "$golden/vit" row=row.yaml
expect_in err.txt "row.yaml:2"

expect_exit 1 "$refract" info facebook/dinov2-smal
expect_in err.txt "facebook/dinov2-small"
expect_exit 1 "$refract" info vjepa_v1.5_vit_g_256
expect_in err.txt "never released"
expect_exit 1 "$refract" info "$golden/dinov2" tower=text
expect_in err.txt "no text tower"
expect_exit 2 "$refract" info "$golden/vit" tower=left
expect_exit 2 "$refract" info models foo=1
expect_exit 2 "$refract" info openai/clip-vit-base-patch32 foo=1
