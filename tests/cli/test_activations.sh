# The quick look: activations of a few pictures, named by hook point.
. "$(dirname "$0")/lib.sh"

expect_exit 0 "$refract" activations model pictures/blobs/00.png pictures/stripes/03.png \
    hooks=hook_embed,blocks.0.attn.hook_pattern,blocks.-1.hook_resid_post,hook_pooled out=acts.safetensors
expect_in out.txt "blocks.2.hook_resid_post"
expect_in out.txt "[2, 17, 32]"
expect_in out.txt "[2, 2, 17, 17]"
expect_in out.txt "[2, 16, 32]"
expect_file acts.safetensors
head -c 2000 acts.safetensors >header.txt
expect_in header.txt "pictures/stripes/03.png"
# The same picture alone has the same bytes as among others (hook_pooled: 32 floats a picture).
expect_exit 0 "$refract" activations model pictures/blobs/00.png hooks=hook_pooled out=one.safetensors
expect_exit 0 "$refract" activations model pictures/stripes/03.png pictures/blobs/00.png hooks=hook_pooled out=two.safetensors
cmp <(tail -c 128 one.safetensors) <(tail -c 128 two.safetensors) || fail "a neighbour changed a picture's activations"
expect_exit 1 "$refract" activations model pictures/blobs/00.png hooks=hook_embedd out=x.safetensors
expect_in err.txt "hook_embed"
expect_exit 1 "$refract" activations model no.png hooks=hook_embed out=x.safetensors
expect_in err.txt "no.png"
expect_exit 2 "$refract" activations model
