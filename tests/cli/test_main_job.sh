# The main job as a person does it: init, plan, train, eval, export, and what a second start does.
. "$(dirname "$0")/lib.sh"

"$refract" init model pictures out=first.yaml
expect_file first.yaml
expect_exit 1 "$refract" init model pictures out=first.yaml # never over an existing file
"$refract" plan first.yaml ranks=2 >plan.txt
expect_in plan.txt "parameters"

tiny_run run.yaml run
ranks 2 "$refract" train run.yaml >train.txt 2>&1 || { cat train.txt; fail "train"; }
expect_file run/config.yaml run/metrics.jsonl run/summary.csv run/topk/coder.safetensors \
    run/relu/coder.safetensors
compgen -G 'run/checkpoints/step-*.h5' >/dev/null || fail "no checkpoint"
compgen -G 'run/topk/events.out.tfevents.*' >/dev/null || fail "no TensorBoard events"

# The resolved settings are a run file themselves: the same coders come out, and words for all coders reach them.
"$refract" train run/config.yaml output.dir=again >train.txt 2>&1 || { cat train.txt; fail "train again"; }
cmp run/topk/coder.safetensors again/topk/coder.safetensors || fail "config.yaml: another coder"
cmp <(sed 's/dir: .*//' run/config.yaml) <(sed 's/dir: .*//' again/config.yaml) || fail "config.yaml: other settings"
"$refract" train run/config.yaml output.dir=other train.lr=1e-4 train.epochs=1 >train.txt 2>&1 || { cat train.txt; fail "train other"; }
grep '"coder": *"topk"' other/metrics.jsonl | tail -n 1 | grep -q '"lr": 0.0000' || grep '"coder": *"topk"' other/metrics.jsonl | tail -n 1 | grep -qE '"lr": [0-9.]+e-0' ||
    fail "train.lr on the command line did not reach a coder of config.yaml"

# The explained variance of the last whole batch of the TopK coder: it has learned something.
ev=$(grep '"coder": *"topk"' run/metrics.jsonl | tail -n 2 | head -n 1 | sed 's/.*"explained_variance": *\([-0-9.e]*\).*/\1/')
awk -v ev="$ev" 'BEGIN {exit !(ev > 0.3 && ev < 1)}' || fail "explained variance $ev"

# A fresh start into a used folder is refused with a way out; going on from the end is no work.
expect_exit 1 ranks 2 "$refract" train run.yaml
expect_in err.txt "train.resume"
cp run/topk/coder.safetensors before.safetensors
expect_exit 0 ranks 2 "$refract" train run.yaml train.resume=auto
cmp before.safetensors run/topk/coder.safetensors || fail "a finished run was changed"

ranks 2 "$refract" eval run >eval.txt 2>&1 || { cat eval.txt; fail "eval"; }
expect_file run/eval.json
expect_in eval.txt "topk"
expect_in eval.txt "held out"

# The share of variance that held-out pictures have explained, from the record.
ev=$(grep -A 20 '"pictures": "held out"' run/eval.json | grep -m 1 '"all":' | sed 's/.*"explained_variance": *\([-0-9.e]*\).*/\1/')
awk -v ev="$ev" 'BEGIN {exit !(ev > 0.3 && ev < 1)}' || fail "held-out explained variance $ev"
# From another folder, told where model and pictures are.
(mkdir elsewhere && cd elsewhere && expect_exit 0 "$refract" eval ../run model.path=../model data.path=../pictures substitution=false)
expect_exit 2 ranks 2 "$refract" export run exported # one rank's work
expect_in err.txt "without mpirun"

"$refract" export run exported format=saelens
expect_file exported/topk/cfg.json exported/topk/sae_weights.safetensors exported/relu/cfg.json
expect_in exported/topk/cfg.json '"architecture": "topk"'

# A model with a head, whose labels are the class folders: cross entropy, spliced and ablated.
tiny_run classified.yaml classified '  - {name: cls, input: blocks.1.hook_resid_post, tokens: cls, architecture: topk, latents: 64, k: 8, batch_tokens: 16}
  - {name: pooled, input: hook_pooled, tokens: pooled, architecture: topk, latents: 64, k: 8, batch_tokens: 16}'
ranks 2 "$refract" train classified.yaml model.path=classifier train.epochs=2 >train.txt 2>&1 || { cat train.txt; fail "train classified"; }
ranks 2 "$refract" eval classified micro_batch=7 >eval.txt 2>&1 || { cat eval.txt; fail "eval classified"; }
grep -q '"ce_recovered_percent": *[-0-9]' classified/eval.json || fail "eval.json: no cross entropy recovered"
[[ $(grep -c '^pooled ' eval.txt) == 4 ]] || fail "eval: expected the pooled coder in both tables, held out and trained on"
