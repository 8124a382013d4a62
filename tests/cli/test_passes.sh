#!/usr/bin/env bash
# A sweep in passes, stopped in the first, killed in the second, damaged, gone on with: what info, export, report and
# plan say at each of these.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run '  - {name: a, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 4}
  - {name: bad, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 4, outlier_factor: 0.01}
  - {name: c, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6, epochs: 2000}
  - {name: d, input: blocks.2.hook_resid_post, architecture: topk, latents: 96, k: 4}'
sed -i 's/epochs: 6,/epochs: 150, log_every: 7, coders_at_once: 2,/; s/output: {/output: {select: max ev, /' run.yaml

# until_true COMMAND...: it succeeds, within 30 s.
until_true() {
    local i
    for ((i = 0; i < 3000; i++)); do
        "$@" 2>/dev/null && return
        sleep 0.01
    done
    cat log.txt
    fail "30 s without: $*"
}

says() { grep -qF -- "$1" log.txt; }
has_files() { [[ $(ls run/checkpoints/*.h5 | wc -l) -ge $1 ]]; }
logged() { [[ $(grep -c "\"coder\": \"$1\"" run/metrics.jsonl) -ge $2 ]]; }

# start WORDS...: train in the background.
start() {
    : >log.txt
    (exec "$refract" train run.yaml "$@") >log.txt 2>&1 &
    job=$!
}

# ended CODER WORDS: how the page says that it ended.
ended() {
    grep -qE "data-n=\"$1\".*<b>$2" run/sweep.html || {
        grep -oE 'data-n="[^"]*"|<td class="first end.*' run/sweep.html >&2
        fail "$1 is not '$2'"
    }
}

# Stopped in the first pass: coders of the second are named with the pass that they wait for.
start
until_true says "coder 'bad' failed"
until_true has_files 1
kill -TERM $job
wait $job || { cat log.txt; fail "a stopped run is not a failure"; }
expect_in log.txt "pass 1 of 2: coders 1 to 2 of 4"
expect_exit 0 "$refract" info run
expect_in out.txt "  a: topk"
expect_in out.txt "  c: waits for pass 2 of 2"
expect_exit 0 "$refract" export run exported
expect_in out.txt "left out d: it waits for pass 2 of 2"
expect_file exported/{a,bad}/sae_weights.safetensors
[[ ! -e exported/c ]] || fail "a coder that waits was exported"
expect_exit 0 "$refract" report run
ended a "unfinished</b> <span>step [0-9]+ of [0-9]+: interrupted"
ended d "waiting</b> <span>for pass 2 of 2"

# What failed says so in whole batches, whatever was logged.
words=$(sed -n "s/.*coder 'bad' failed: \([0-9]* of its first [0-9]* batches\).*/\1/p" log.txt)
[[ -n $words ]] || fail "the run does not say why 'bad' failed"
ended bad "failed</b> <span>${words/its/the} were skipped"

# Gone on with one coder at once, and killed in the second pass of now three: the summary of the stop is gone.
start train.resume=auto train.coders_at_once=1
until_true says "pass 2 of"
until_true logged c 3
until_true has_files 3
kill -KILL $job
wait $job 2>/dev/null && fail "a killed run ended with 0"
expect_in log.txt "pass 1 of 3: coders 1 to 2 of 4"
expect_in log.txt "pass 2 of 3: coders 3 to 3 of 4"
[[ ! -e run/summary.csv ]] || fail "summary.csv of an earlier stop"
expect_exit 0 "$refract" report run
expect_in out.txt "wrote run/sweep.html"
expect_in run/sweep.html "The run has not ended"
ended a "done</b></td>"
ended bad "failed</b> <span>${words/its/the} were skipped"
ended c "unfinished</b> <span>step [0-9]+ of [0-9]+; the run has not ended"
ended d "waiting</b> <span>for pass 3 of 3"
expect_exit 0 "$refract" info run
expect_in out.txt "  c: topk"
expect_in out.txt "  d: waits for pass 3 of 3"

# The checkpoint of the first pass is damaged: it is named, and what else there is can be used.
first=$(ls run/checkpoints/*.h5 | head -n 1)
cp "$first" whole.h5
truncate -s -1000 "$first"
expect_exit 1 "$refract" info run
expect_in out.txt "  c: topk"
expect_in err.txt "2 of 4 coders cannot be read"
expect_exit 1 "$refract" export run rest
expect_file rest/c/sae_weights.safetensors
expect_in err.txt "damaged or gone"
start train.resume=auto
until_true says "going on from"
kill -TERM $job
wait $job || { cat log.txt; fail "damaged: stop"; }
expect_in log.txt "an older checkpoint cannot be used: "
expect_in log.txt "$first"
expect_in log.txt "2 of the coders of passes before, the first of which is 'a'"
expect_file "$first"

# With a whole copy all is there again.
cp whole.h5 "$first"
expect_exit 0 "$refract" info run
expect_exit 0 "$refract" report run
ended a "done</b></td>"

# Samples that cannot be started from name their coder once.
mkdir same
for i in 1 2 3 4 5 6 7 8; do cp pictures/blobs/00.png same/$i.png; done
expect_exit 1 "$refract" train run.yaml output.dir=alike data.path=same data.holdout=0 coders.0.tokens=cls
expect_in err.txt "coder 'a': all "
! grep -q "coder 'a': coder" err.txt || fail "a coder is named twice"

# Of hundreds of names plan says a few.
expect_exit 0 "$refract" plan run.yaml ranks=2 "sweep.coder.seed=1..100" train.coders_at_once=300
expect_in out.txt "a-seed3, a-seed4, a-seed5 and 295 more"
(($(wc -L <out.txt) < 250)) || fail "plan: a line of $(wc -L <out.txt) characters"
