#!/usr/bin/env bash
# refract eval: cross entropy by a zero-shot classifier, other pictures, and a run that never had a model.
. "$(dirname "$0")/lib.sh"

golden=$source_dir/tests/golden
mkdir clip
cp "$golden"/zero_shot/model/* clip/
echo '{"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8}' >clip/preprocessor_config.json
ls pictures >classes.txt
"$refract" zero-shot clip names=classes.txt out=classes.safetensors >log.txt 2>&1 || { cat log.txt; fail "zero-shot"; }
tiny_run run.yaml run '  - {name: topk, input: blocks.0.hook_resid_post, tokens: cls, architecture: topk, latents: 64, k: 6, batch_tokens: 16}'
sed -i 's/model: {path: model}/model: {path: clip}/; s/epochs: 6/epochs: 2/' run.yaml
"$refract" train run.yaml >log.txt 2>&1 || { cat log.txt; fail "train"; }

# CLIP has no head, and says what would do; with a classifier there are figures, the same on any number of ranks.
expect_exit 0 "$refract" eval run
expect_in out.txt "no cross entropy: the model has no classification head (classifier=FILE"
expect_in run/eval.json '"ce": null'
expect_exit 0 "$refract" eval run classifier=classes.safetensors micro_batch=5
expect_in out.txt "CE: of classes.safetensors, 4 classes, cosines x 1.382; pictures' classes matched by name"
expect_in out.txt "are classified right by the untouched model"
expect_in run/eval.json '"classifier": "classes.safetensors"'
grep -q '"ce_recovered_percent": *[-0-9]' run/eval.json || fail "eval.json: no cross entropy recovered"
cp run/eval.json one.json
for n in 2 3; do
    ranks $n "$refract" eval run classifier=classes.safetensors micro_batch=5 >log.txt 2>&1 || { cat log.txt; fail "eval on $n ranks"; }
    cmp one.json run/eval.json || fail "eval on $n ranks: other figures"
done
printf 'name,ce,ce_spliced,ce_zero,ce_recovered_percent\ntopk,6.762,6.763,6.908,99.2\n' >published.csv
expect_exit 0 "$refract" report run published=published.csv
for figure in ce ce_spliced ce_zero ce_recovered_percent; do
    grep -qE "^topk,\"?\"?,?$figure,\"held out\",[-0-9.e+]+," run/published.csv || fail "published.csv has no $figure: $(cat run/published.csv)"
done
expect_exit 0 "$refract" eval run classifier=classes.safetensors logit_scale=1
expect_in out.txt "cosines x 1;"

# Other pictures: all of them, named and counted; never those that were trained on.
mkdir others
cp -r pictures/blobs others/blobs
expect_exit 0 "$refract" eval run pictures=others classifier=classes.safetensors
expect_in out.txt "held out: $(ls others/blobs | wc -l) pictures of others; trained on: "
expect_exit 0 "$refract" eval run pictures=others trained_on=false data.path=gone
expect_in err.txt "whether some of 'others' were trained on cannot be told"
if grep -q 'trained on' out.txt; then fail "trained_on=false"; fi
expect_exit 1 "$refract" eval run pictures=others data.path=gone
expect_in err.txt "trained_on=false does without"
expect_exit 1 "$refract" eval run pictures=pictures
expect_in err.txt "were trained on (blobs/"
mv others/blobs others/bubbles
expect_exit 1 "$refract" eval run pictures=others classifier=classes.safetensors
expect_in err.txt "classifier: class 'bubbles' of the pictures"
expect_exit 1 "$refract" eval run root=others
expect_in err.txt "root and part are of pictures="
expect_exit 1 "$refract" eval run classifier=classes.safetensors model.path=model
expect_in err.txt "logit_scale"

# From a store: neither model nor pictures, and what to do.
sed 's/output: {dir: run}/output: {dir: stored}/; s/^model: .*//; s/path: pictures, //; s/activations: {/activations: {source: store, store: a.h5, /' run.yaml >stored.yaml
"$refract" cache run.yaml activations.store=a.h5 >log.txt 2>&1 || { cat log.txt; fail "cache"; }
"$refract" train stored.yaml >log.txt 2>&1 || { cat log.txt; fail "train from a store"; }
expect_exit 1 "$refract" eval stored
expect_in err.txt "write model.path=MODEL behind it"
expect_exit 1 "$refract" eval stored model.path=clip
expect_in err.txt "write data.path=PICTURES behind it"
expect_exit 1 "$refract" eval stored model.path=clip data.path=pictures model.fold_ln=true
expect_in err.txt "weight processing 'none', this one has 'fold_ln'"
expect_exit 0 "$refract" eval stored model.path=clip data.path=pictures
expect_exit 0 "$refract" eval stored model.path=clip pictures=others
expect_in out.txt "pictures of others"
