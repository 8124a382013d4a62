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

# The same coders dealt out over ranks and in passes: exact rules have the same bits everywhere, and so have the
# checkpoints of one setting on any number of ranks and the metrics (but for the clock).
strip_clock() {
    sed 's/"tokens_per_s": *[^,}]*//' "$1/metrics.jsonl"
}
exact=("{name: a, input: blocks.0.hook_mlp_out, architecture: topk, latents: 64, k: 4, seed: 3}"
    "{name: b, input: blocks.1.hook_resid_post, architecture: batch_topk, latents: 80, k: 5, tokens: cls, batch_tokens: 24}"
    "{name: c, input: blocks.2.attn.hook_z, architecture: topk, latents: 48, k: 3, tokens: patch, batch_tokens: 200, lr: 1e-2}")
tiny_run dealt.yaml dealt-one "$(printf '  - %s\n' "${exact[@]}")"
sed -i 's/epochs: 6,/epochs: 2,/' dealt.yaml
"$refract" train dealt.yaml >log.txt 2>&1 || { cat log.txt; fail "one rank"; }
for n in 1 2 4; do
    for each in 0 1 2; do
        ((n % (each > 0 ? each : 1) == 0)) || continue
        dir=dealt-$n-$each
        ranks $n "$refract" train dealt.yaml output.dir=$dir train.ranks_per_coder=$each >log.txt 2>&1 || { cat log.txt; fail "$dir"; }
        for name in a b c; do
            cmp dealt-one/$name/coder.safetensors $dir/$name/coder.safetensors || fail "$dir: other bits of $name"
        done
        cmp <(strip_clock dealt-one) <(strip_clock $dir) || fail "$dir: another metrics.jsonl"
    done
done
expect_in log.txt "ranks 2 to 3: "
for n in 1 2 4; do # the folder's name is in the settings, so it must be the same
    rm -rf same && ranks $n "$refract" train dealt.yaml output.dir=same train.ranks_per_coder=1 >log.txt 2>&1 || { cat log.txt; fail "same-$n"; }
    cp same/checkpoints/$(ls same/checkpoints | tail -n 1) newest-$n.h5
    cmp newest-1.h5 newest-$n.h5 || fail "$n ranks: another checkpoint"
done
expect_exit 1 ranks 2 "$refract" train dealt.yaml output.dir=no train.ranks_per_coder=3
expect_in err.txt "train.ranks_per_coder = 3 does not divide the 2 ranks"

# Passes: a checkpoint of each stays, and what reads a run finds every coder in its own.
ranks 2 "$refract" train dealt.yaml output.dir=passes train.coders_at_once=2 train.ranks_per_coder=1 train.checkpoint_every=3 \
    train.keep_checkpoints=1 >log.txt 2>&1 || { cat log.txt; fail "passes"; }
expect_in log.txt "pass 2 of 2: coders 3 to 3 of 3"
for name in a b c; do
    cmp dealt-one/$name/coder.safetensors passes/$name/coder.safetensors || fail "passes: other bits of $name"
done
[[ $(ls passes/checkpoints | wc -l) == 2 ]] || fail "passes: $(ls passes/checkpoints)"
[[ $(tail -n +2 passes/summary.csv | wc -l) == 3 ]] || fail "passes: summary.csv"
"$refract" export passes exported >log.txt 2>&1 || { cat log.txt; fail "export"; }
expect_file exported/{a,b,c}/sae_weights.safetensors
"$refract" eval passes >log.txt 2>&1 || { cat log.txt; fail "eval"; }
for name in a b c; do expect_in passes/eval.json "\"$name\""; done

# What plan says of them.
"$refract" plan dealt.yaml ranks=2 train.coders_at_once=2 train.ranks_per_coder=1 >plan.txt
expect_in plan.txt "2 readings of the pictures"
expect_in plan.txt "pass 2 of 2: coders 3 to 3"
expect_in plan.txt "plan would choose"
expect_exit 1 "$refract" plan dealt.yaml ranks=2 train.ranks_per_coder=3
