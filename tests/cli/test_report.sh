# A sweep's page and table: at the end of train, from a run that failed in part, with held-out figures, anew.
. "$(dirname "$0")/lib.sh"

tiny_run sweep.yaml sweep '  - {name: "k{k}", input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: "{k}", each: {k: [2, 4, 8]}}
  - {name: bad, input: blocks.1.hook_resid_post, architecture: relu, latents: 96, l1: 1e-3, bad_l0: 96, bad_ev: 1, warmup_steps: 1}'
sed -i 's/epochs: 6/epochs: 3, log_every: 1/; s/output: {/output: {select: max ev where l0 <= 5, /' sweep.yaml
ranks 2 "$refract" train sweep.yaml >out.txt 2>&1 || { cat out.txt; fail "sweep"; }
expect_file sweep/sweep.html
expect_in out.txt "wrote sweep/sweep.html"
expect_in out.txt "* best by max ev where l0 <= 5: k4"
[[ $(grep -c '^\*' out.txt) == 1 ]] || fail "the table marks one coder as the best"
[[ $(grep -c '<tr class="coder' sweep/sweep.html) == 4 ]] || fail "a row for each coder"
expect_in sweep/sweep.html '<tr class="coder failed"'
expect_in sweep/sweep.html 'a bad run at step'
expect_in sweep/sweep.html '<strong>k4</strong>'
expect_in sweep/sweep.html 'held out'

# summary.csv: one row a coder, a column for every setting of a coder.
[[ $(wc -l <sweep/summary.csv) == 5 ]] || fail "summary.csv: expected 4 rows"
header=$(head -n 1 sweep/summary.csv)
for key in name input architecture latents k l1 lr batch_tokens optimiser warmup_steps selected failed last_l0 last_explained_variance; do
    [[ ,$header, == *,$key,* ]] || fail "summary.csv has no column $key"
done

# Anew: the same bytes. With eval.json: held-out figures beside the others.
cp sweep/sweep.html before.html
expect_exit 0 "$refract" report sweep
cmp before.html sweep/sweep.html || fail "report: other bytes"
expect_exit 0 "$refract" eval sweep
expect_exit 0 "$refract" report sweep
expect_in sweep/sweep.html 'pictures, eval.json'
if cmp -s before.html sweep/sweep.html; then fail "report: no figures of eval.json"; fi
if grep -qE 'https?:|src=|<link|url\(' sweep/sweep.html; then fail "the page asks for something outside"; fi

# A run that was killed: what it logged.
cp -r sweep killed
rm killed/summary.csv killed/eval.json
printf '{"tick": 99, "coder": "k2", ' >>killed/metrics.jsonl
expect_exit 0 "$refract" report killed
expect_in killed/sweep.html 'The run has not ended'

# One coder is no sweep; its page comes when it is asked for.
tiny_run one.yaml one '  - {name: only, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 4}'
expect_exit 0 "$refract" train one.yaml
[[ ! -e one/sweep.html ]] || fail "a page of one coder that nobody asked for"
expect_exit 0 "$refract" report one
expect_file one/sweep.html

# A page that cannot be written is a warning: the run is whole.
sed 's/dir: sweep/dir: blocked/' sweep.yaml >blocked.yaml
mkdir -p blocked/sweep.html/in-the-way
expect_exit 0 "$refract" train blocked.yaml
expect_in err.txt "no page of the sweep was written"
expect_file blocked/summary.csv

expect_exit 1 "$refract" report .
expect_in err.txt "no run folder"
expect_exit 2 "$refract" report
expect_exit 2 "$refract" report sweep k=3
