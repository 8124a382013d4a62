# Early stopping: coders that no longer improve are done, bad runs have failed, and neither depends on ranks or resumes.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run '  - {name: topk, input: blocks.1.hook_resid_post, architecture: topk, latents: 128, k: 6}
  - {name: jump, input: blocks.1.hook_resid_post, architecture: jumprelu, latents: 96, optimiser: schedule_free, schedule: constant, accumulate: 3}
  - {name: free, input: blocks.1.hook_resid_post, architecture: batch_topk, latents: 96, k: 6, stop_metric: ""}'
sed -i 's/epochs: 6/epochs: 30/; s/checkpoint_every: 10/checkpoint_every: 7, keep_checkpoints: 100, log_every: 2, stop_metric: min loss, stop_patience: 3, stop_min_change: 0.02/' run.yaml
ranks 2 "$refract" train run.yaml >log.txt 2>&1 || { cat log.txt; fail "train"; }
expect_in log.txt "coder 'topk' stopped after"
expect_in log.txt "coder 'jump' stopped after"
[[ $(grep -c "stopped after" log.txt) == 2 ]] || fail "a coder without stop_metric stopped"

# Its last line says so, and no line comes behind it.
for coder in topk jump; do
    [[ $(grep "\"coder\": \"$coder\"" run/metrics.jsonl | grep -c '"stopped": 1') == 1 ]] || fail "$coder: lines with stopped"
    grep "\"coder\": \"$coder\"" run/metrics.jsonl | tail -n 1 | grep -q '"stopped": 1' || fail "$coder: a line behind its last"
    expect_file run/$coder/coder.safetensors
done
grep "\"coder\": \"free\"" run/metrics.jsonl | tail -n 1 | grep -q '"step": 208,' || fail "free: did not take all of its batches"
[[ $(grep -c ',0,stop_metric,' run/summary.csv) == 2 ]] || fail "summary.csv does not tell who stopped"

# One rank stops at the same lines.
"$refract" train run.yaml output.dir=alone >log.txt 2>&1 || { cat log.txt; fail "one rank"; }
cmp run/topk/coder.safetensors alone/topk/coder.safetensors || fail "one rank: another TopK coder"

# Resumed before and after somebody stopped.
for from in 7 28 63; do
    rm -rf again
    cp -r run again
    for file in again/checkpoints/step-*.h5; do
        tick=${file##*step-}
        ((10#${tick%.h5} <= from)) || rm "$file"
    done
    ranks 2 "$refract" train run.yaml output.dir=again train.resume=auto >log.txt 2>&1 || { cat log.txt; fail "resume from $from"; }
    for coder in topk jump free; do
        cmp run/$coder/coder.safetensors again/$coder/coder.safetensors || fail "resume from $from: other bits of $coder"
    done
    cmp <(sed 's/"tokens_per_s": *[^,}]*//' run/metrics.jsonl) <(sed 's/"tokens_per_s": *[^,}]*//' again/metrics.jsonl) ||
        fail "resume from $from: another metrics.jsonl"
done

# When all have stopped the run is over, and well.
sed '/name: free/d' run.yaml >all.yaml
ranks 2 "$refract" train all.yaml output.dir=all >log.txt 2>&1 || { cat log.txt; fail "all stopped"; }
grep -q '"epoch": 30' all/metrics.jsonl && fail "the run went on without anyone who learned"
expect_exit 0 "$refract" train all.yaml output.dir=all train.resume=auto

# A bad run has failed; beside it others go on.
tiny_run bad.yaml bad '  - {name: bad, input: blocks.1.hook_resid_post, architecture: topk, latents: 128, k: 2, bad_l0: 5, bad_ev: 0.999}
  - {name: good, input: blocks.1.hook_resid_post, architecture: topk, latents: 128, k: 6}'
ranks 2 "$refract" train bad.yaml >log.txt 2>&1 || { cat log.txt; fail "bad run beside a good one"; }
expect_in log.txt "coder 'bad' failed at batch"
expect_in bad/summary.csv ",1,bad run,0,"
sed '/name: good/d' bad.yaml >alone.yaml
expect_exit 1 ranks 2 "$refract" train alone.yaml output.dir=bad-alone
expect_in err.txt "train.bad_ev"
