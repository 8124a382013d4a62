# Weight processing is a setting of the run: records name it, and no run goes on with another.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run
sed -i 's/model: {path: model}/model: {path: model, fold_ln: true, center_writing_weights: true}/; s/epochs: 6/epochs: 1/' run.yaml
name=fold_ln+center_writing_weights
"$refract" train run.yaml >log.txt 2>&1 || { cat log.txt; fail "train"; }
grep -qaF "\"weight_processing\":\"$name\"" run/topk/coder.safetensors || fail "coder.safetensors does not name it"

"$refract" eval run >log.txt 2>&1 || { cat log.txt; fail "eval"; }
expect_in run/eval.json "\"weight_processing\": \"$name\""
"$refract" export run out >log.txt 2>&1 || { cat log.txt; fail "export"; }
expect_in out/topk/cfg.json "\"refract_weight_processing\": \"$name\""

sed -i 's/epochs: 1/epochs: 2/' run.yaml
for key in fold_ln center_writing_weights; do
    expect_exit 1 "$refract" train run.yaml train.resume=auto model.$key=false
    expect_in err.txt "model.$key is false and was true in the checkpoint"
done
expect_exit 1 "$refract" train run.yaml train.resume=auto model.fold_value_biases=true
expect_in err.txt "model.fold_value_biases is true and was false in the checkpoint"

# Without any: the same model, other activations.
tiny_run plain.yaml plain
sed -i 's/epochs: 6/epochs: 1/' plain.yaml
"$refract" train plain.yaml >log.txt 2>&1 || { cat log.txt; fail "train plain"; }
"$refract" eval plain >log.txt 2>&1 || { cat log.txt; fail "eval plain"; }
expect_in plain/eval.json '"weight_processing": "none"'
cmp -s run/topk/coder.safetensors plain/topk/coder.safetensors && fail "processing changed nothing"
exit 0
