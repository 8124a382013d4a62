# 1, 2, 3 and 4 ranks, and more threads: the same TopK coder bit for bit, and the same loss curve of the
# ReLU coder within 1e-6 relative over its first 50 steps.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run
for n in 1 2 3 4; do
    ranks $n "$refract" train run.yaml output.dir=run$n train.log_every=1 >log.txt 2>&1 || { cat log.txt; fail "$n ranks"; }
    cmp run1/topk/coder.safetensors run$n/topk/coder.safetensors || fail "$n ranks: another TopK coder"
    grep '"coder": *"relu"' run$n/metrics.jsonl | sed -n 1,50p | sed 's/.*"loss": *\([-0-9.e+]*\).*/\1/' >loss$n.txt
    [[ $(wc -l <loss$n.txt) == 50 ]] || fail "$n ranks: fewer than 50 steps logged"
    paste loss1.txt loss$n.txt | awk '{d = ($1 - $2) / $1; if (d < 0) d = -d; if (!(d <= 1e-6)) exit 1}' ||
        fail "$n ranks: the ReLU loss differs by more than 1e-6"
done
"$refract" train run.yaml output.dir=threads train.threads=3 >log.txt 2>&1 || { cat log.txt; fail "3 threads"; }
cmp run1/topk/coder.safetensors threads/topk/coder.safetensors || fail "3 threads: another TopK coder"
cmp run1/relu/coder.safetensors threads/relu/coder.safetensors || fail "3 threads: another ReLU coder"
# Activations kept in memory are the ones that would be computed again.
"$refract" train run.yaml output.dir=kept activations.keep_bytes=1e8 >log.txt 2>&1 || { cat log.txt; fail "kept"; }
cmp run1/topk/coder.safetensors kept/topk/coder.safetensors || fail "kept activations: another TopK coder"
cmp run1/relu/coder.safetensors kept/relu/coder.safetensors || fail "kept activations: another ReLU coder"
