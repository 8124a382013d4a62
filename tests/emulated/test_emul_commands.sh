# Every command that computes with a model or a coder prints the CPU's figures on the emulated device:
# eval, zero-shot, activations and check. Those that take device= refuse what is none.
. "$1/tests/cli/lib.sh"
emulated=$build_dir/emul/bin/refract
golden=$source_dir/tests/golden

# floats FILE: the values of a safetensors file, one a line.
floats() {
    local head
    head=$(od -An -v -tu8 -N8 "$1" | tr -d ' ')
    tail -c +$((9 + head)) "$1" | od -An -v -tf4 -w4
}

# numbers FILE: those of a JSON file or of a table, one a line, but for times and paths.
numbers() {
    grep -vE '"(seconds|device|path|created|checkpoint)"' "$1" | grep -oE -- '-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?'
}

# close TOLERANCE WHAT A B: as many numbers in both, each within TOLERANCE of the larger of 1 and its size.
close() {
    paste "$3" "$4" | awk -v tol="$1" -v what="$2" '
        NF != 2 {print what ": not as many numbers"; bad = 1; exit}
        {d = $1 - $2; d = d < 0 ? -d : d; s = $1 < 0 ? -$1 : $1; s = s < 1 ? 1 : s
         if (!(d <= tol * s)) {print what ": " $1 " on the CPU, " $2 " on the device"; bad = 1}
         if (d / s > worst) worst = d / s; n++}
        END {print what ": " n " numbers, largest difference " worst + 0; exit bad || n == 0}' || fail "$2"
}

# activations: fp32 sums in another order than the CPU's, through three blocks: a few units of 6e-8 each.
for device in cpu cuda; do
    "$emulated" activations model pictures/blobs/00.png pictures/stripes/03.png device=$device \
        hooks=hook_embed,blocks.0.attn.hook_pattern,blocks.-1.hook_resid_post,hook_pooled out=$device.safetensors >out.txt 2>log.txt
    floats $device.safetensors >$device.txt
done
close 2e-5 activations cpu.txt cuda.txt
! cmp -s cpu.safetensors cuda.safetensors || fail "device= has no effect: not a bit differs"

# check: the comparison with the library's own values holds, and its table has the same rows.
for model in vit dinov2_classifier:reference_42 clip_whole:reference_text; do
    folder=$golden/vit/${model%%:*} reference=reference
    [[ $model == *:* ]] && reference=${model#*:}
    for device in cpu cuda; do
        expect_exit 0 "$emulated" check "$folder" "against=$folder/$reference.safetensors" device=$device
        sed 's/  *[0-9.e+-]*  .*//; s/, largest error.*//' out.txt >$device.txt
    done
    cmp cpu.txt cuda.txt || fail "check $model"
done

# zero-shot: the classifier's unit vectors, and the cosines and order of classes.
mkdir clip
cp "$golden"/zero_shot/model/* clip/
echo '{"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8}' >clip/preprocessor_config.json
printf 'tench\ngreat white shark\nT-shirt\n' >classes.txt
printf 'a {}.\na photo of a {}.\n' >templates.txt
for device in cpu cuda; do
    "$emulated" zero-shot clip names=classes.txt templates=templates.txt out=classes-$device.safetensors device=$device >out.txt 2>log.txt
    floats classes-$device.safetensors >$device.txt
    "$emulated" zero-shot clip pictures/*/0*.png classifier=classes-cpu.safetensors top=3 device=$device >top-$device.txt 2>log.txt
done
close 2e-5 "classes' vectors" cpu.txt cuda.txt
cut -c 1-8 top-cpu.txt | numbers /dev/stdin >cpu.txt
cut -c 1-8 top-cuda.txt | numbers /dev/stdin >cuda.txt
close 2e-4 cosines cpu.txt cuda.txt # four digits are printed
cmp <(sed 's/^  -*[0-9.]*//' top-cpu.txt) <(sed 's/^  -*[0-9.]*//' top-cuda.txt) || fail "zero-shot: another order"

# eval, of a model with a head: losses with reconstructions spliced in, and what a coder is by itself.
cat >run.yaml <<YAML
model: {path: classifier}
data: {path: pictures, holdout: 0.3}
activations: {group_pictures: 4, pool_groups: 3}
coders:
  - {name: topk, input: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6}
  - {name: batch, input: blocks.1.hook_resid_post, architecture: batch_topk, latents: 96, k: 6}
  - {name: relu, input: blocks.1.hook_resid_post, architecture: relu, latents: 96}
  - {name: jump, input: blocks.1.hook_resid_post, architecture: jumprelu, latents: 96}
  - {name: transcoder, input: blocks.0.hook_resid_post, target: blocks.1.hook_resid_post, architecture: topk, latents: 96, k: 6}
train: {batch_tokens: 128, epochs: 3, lr: 3e-3, warmup_steps: 3, threads: 1, sample_tokens: 256, device: cpu}
output: {dir: run}
YAML
"$refract" train run.yaml >log.txt 2>&1 || { cat log.txt; fail "train"; }
for device in cpu cuda; do
    "$emulated" eval run train.device=$device >eval-$device.txt 2>log.txt || { cat log.txt; fail "eval on $device"; }
    cp run/eval.json $device.json
    numbers $device.json >$device.txt
done
# Sums in another order, twice through the model; no tie of these few tokens is so near that it turns.
close 1e-4 eval cpu.txt cuda.txt
! cmp -s cpu.txt cuda.txt || fail "train.device= has no effect on eval: not a bit differs"

# `auto` says why it is the CPU that computes; a GPU without kernels for it is none.
REFRACT_EMUL_DEVICES=0 "$emulated" eval run train.device=auto >eval-auto.txt 2>log.txt || { cat log.txt; fail "eval on auto"; }
grep -q "no GPU to compute on" log.txt || fail "auto does not say why it takes the CPU"
cmp run/eval.json cpu.json || fail "auto without a GPU: other figures than the CPU's"
REFRACT_EMUL_FAIL=cudaDeviceGetAttribute:1 expect_exit 1 "$emulated" eval run train.device=cuda
expect_in err.txt "has compute capability 0.0, and 8.0 is needed"

# What is no device.
for command in "activations model pictures/blobs/00.png hooks=hook_embed out=x.safetensors" \
    "check model against=cpu.safetensors" "zero-shot clip names=classes.txt out=x.safetensors"; do
    expect_exit 2 "$refract" $command device=gpu
    expect_in err.txt "device=gpu: expected auto, cpu or cuda"
    REFRACT_EMUL_DEVICES=0 expect_exit 1 "$emulated" ${command/cpu.safetensors/$golden/vit/vit/reference.safetensors} device=cuda
    expect_in err.txt "no GPU to compute on"
done
