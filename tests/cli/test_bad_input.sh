# Bad input ends in one clear message, or is counted; nothing saved before is lost.
. "$(dirname "$0")/lib.sh"

tiny_run run.yaml run
train() { expect_exit "$1" "$refract" train "${@:2}"; }

# Paths.
train 1 nothing.yaml
expect_in err.txt "nothing.yaml"
train 1 run.yaml model.path=no-model
expect_in err.txt "no-model: there is no such folder"
train 1 run.yaml data.path=no-pictures
expect_in err.txt "no-pictures"
touch file && train 1 run.yaml output.dir=file/run
expect_in err.txt "file"

cp -r model unreadable && rm unreadable/model.safetensors && mkdir unreadable/model.safetensors
train 1 run.yaml model.path=unreadable
expect_in err.txt "unreadable/model.safetensors"
if ((EUID != 0)); then # root reads everything
    mkdir locked && chmod 000 locked
    train 1 run.yaml data.path=locked
    expect_in err.txt "locked"
fi

# Settings: an unknown key with the nearest one, a value out of range, a wrong type.
train 1 run.yaml train.lrr=1
expect_in err.txt "did you mean 'train.lr'"
train 1 run.yaml train.lr=-1
expect_in err.txt "train.lr = -1: expected"
for name in summary.csv eval.json checkpoints; do
    train 1 run.yaml coders.0.name=$name
    expect_in err.txt "'$name' cannot be a coder's name"
done
train 1 run.yaml train.batch_tokens=many
expect_in err.txt "batch_tokens"
train 1 run.yaml data.holdout=2
expect_in err.txt "holdout"
train 1 run.yaml coders.0.input=blocks.7.hook_resid_post
expect_in err.txt "blocks.7.hook_resid_post"
train 1 run.yaml coders.0.input=blocks.1.hook_residpost
expect_in err.txt "blocks.1.hook_resid_post"
printf 'model: {path: model\ntrain: [' >broken.yaml
train 1 broken.yaml
expect_in err.txt "broken.yaml:"

# A model whose files do not fit, are cut, or lie.
cp -r model cut && truncate -s -100 cut/model.safetensors
train 1 run.yaml model.path=cut
expect_in err.txt "cut/model.safetensors"
cp -r model narrow && sed -i 's/"hidden_size": 32/"hidden_size": 48/' narrow/config.json
train 1 run.yaml model.path=narrow
expect_in err.txt "config.json means"
cp -r model hostile && printf '\377\377\377\377\377\377\377\177{}' >hostile/model.safetensors
train 1 run.yaml model.path=hostile
expect_in err.txt "hostile/model.safetensors"

# A corrupt picture is skipped, counted and named at the end; too many are an error.
cp -r pictures some-bad
for i in 00 04 08; do printf 'not a picture' >some-bad/blobs/$i.png; done # one may be held out
train 0 run.yaml data.path=some-bad data.max_bad_share=0.3 output.dir=some-bad-run train.epochs=2
expect_in err.txt "pictures could not be read"
expect_in err.txt "some-bad/blobs/0"
for f in some-bad/*/*; do head -c 40 "$f" >cut.png && mv cut.png "$f"; done
train 1 run.yaml data.path=some-bad data.max_bad_share=0.1 output.dir=all-bad-run
expect_in err.txt "max_bad_share"

# A weight that is NaN is refused by name. NaN in what the coders see, from a weight that is as large as a
# float can be, is said before the first step. (A batch of NaN in the middle of a run is skipped and counted:
# tests/step/test_step.c.)
cp -r model poisoned
header=$(od -An -t u8 -N 8 poisoned/model.safetensors)
poison() {
    printf "$1" | dd of=poisoned/model.safetensors bs=1 seek=$((header + 8)) conv=notrunc 2>/dev/null
}
poison '\000\000\300\177'
train 1 run.yaml model.path=poisoned output.dir=poisoned-run
expect_in err.txt "holds nan"
poison '\377\377\177\177'
train 1 run.yaml model.path=poisoned output.dir=poisoned-run
expect_in err.txt "not finite"

# A full disk while saving: the job fails with a word, leaves no half-written file, and the checkpoint
# before is whole. (A limit on the size of a file stands in for the disk.)
tiny_run big.yaml big-run '  - {name: topk, input: blocks.1.hook_resid_post, architecture: topk, latents: 65536, k: 6}'
sed -i 's/checkpoint_every: 10/checkpoint_every: 5/; s/epochs: 6/epochs: 2/' big.yaml
train 0 big.yaml
before=$(ls big-run/checkpoints | tail -n 1)
cp "big-run/checkpoints/$before" kept.h5
(
    ulimit -f 30000
    expect_exit 1 "$refract" train big.yaml output.dir=full-run
)
expect_in err.txt "checkpoint"
compgen -G 'full-run/checkpoints/*' >/dev/null && fail "a half-written checkpoint was left"
mkdir tail && cp -r big-run tail/run && rm "tail/run/checkpoints/$before"
if compgen -G 'tail/run/checkpoints/*.h5' >/dev/null; then
    older=$(ls tail/run/checkpoints | tail -n 1)
    cp "tail/run/checkpoints/$older" older.h5
    (
        ulimit -f 30000
        expect_exit 1 "$refract" train big.yaml output.dir=tail/run train.resume=must
    )
    cmp "tail/run/checkpoints/$older" older.h5 || fail "the checkpoint before was touched"
else
    fail "expected an older checkpoint beside $before"
fi
