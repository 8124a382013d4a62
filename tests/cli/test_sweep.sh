# Several coders on one stream: each has the bits that it has when trained alone.
. "$(dirname "$0")/lib.sh"

tiny_run sweep.yaml sweep '  - {name: "l{layer}", input: "blocks.{layer}.hook_resid_post", architecture: topk, latents: 96, k: 4, each: {layer: 0..2}}
sweep: {coder.k: [4, 8], train.lr: {log: [1e-3, 1e-2, 2]}}'
sed -i 's/epochs: 6/epochs: 2/' sweep.yaml
ranks 2 "$refract" train sweep.yaml >log.txt 2>&1 || { cat log.txt; fail "sweep"; }
[[ $(tail -n +2 sweep/summary.csv | wc -l) == 12 ]] || fail "summary.csv: expected 12 coders"
folder=$(ls sweep | grep '^l1-k8-lr0.01')
tiny_run alone.yaml alone "  - {name: $folder, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 8, lr: 1e-2}"
sed -i 's/epochs: 6/epochs: 2/' alone.yaml
"$refract" train alone.yaml >log.txt 2>&1 || { cat log.txt; fail "alone"; }
cmp "sweep/$folder/coder.safetensors" "alone/$folder/coder.safetensors" || fail "alone: other bits"

# Coders of different kinds, tokens, batches, epochs and seeds beside each other: each as if alone.
mixed=("{name: a, input: blocks.0.hook_mlp_out, architecture: topk, latents: 64, k: 4, seed: 3}"
    "{name: b, input: blocks.1.hook_resid_post, architecture: relu, latents: 80, tokens: cls, batch_tokens: 24, epochs: 5}"
    "{name: c, input: blocks.2.attn.hook_z, architecture: topk, latents: 48, k: 3, tokens: patch, batch_tokens: 200, lr: 1e-2}")
tiny_run mixed.yaml mixed "$(printf '  - %s\n' "${mixed[@]}")"
sed -i 's/epochs: 6}/epochs: 2}/; s/epochs: 6,/epochs: 2,/' mixed.yaml
ranks 2 "$refract" train mixed.yaml >log.txt 2>&1 || { cat log.txt; fail "mixed"; }
for i in 0 1 2; do
    name=$(sed 's/{name: \(.\),.*/\1/' <<<"${mixed[i]}")
    tiny_run one.yaml one-$name "  - ${mixed[i]}"
    sed -i 's/epochs: 6,/epochs: 2,/' one.yaml
    ranks 2 "$refract" train one.yaml >log.txt 2>&1 || { cat log.txt; fail "$name alone"; }
    cmp mixed/$name/coder.safetensors one-$name/$name/coder.safetensors || fail "$name alone: other bits"
done
