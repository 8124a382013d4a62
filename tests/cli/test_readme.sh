# Every command line of README.md (its fenced sh blocks) runs, in order, with a tiny model and pictures in the
# place of the big ones.
. "$(dirname "$0")/lib.sh"

# Those that cannot run here, and why. A line that is neither here nor runs fails the test.
declare -A not_run=(
    ["launch/demo"]="downloads 250 MB and trains for minutes; tests/cli/test_main_job.sh walks its path"
    ["launch/test"]="runs this test"
    ["launch/build"]="built what is tested here"
    ["launch/fetch-model openai/clip-vit-base-patch32 models/clip-b32"]="needs the Hub"
)

# A stand-in for Slurm: srun without its options, scontrol and scancel that do nothing.
mkdir bin
printf '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n' >bin/srun
printf '#!/bin/sh\n' | tee bin/scontrol >bin/scancel
chmod +x bin/*
export PATH=$work/bin:$PATH SLURM_CPUS_PER_TASK=1 SLURM_JOB_ID=1 REFRACT=$refract

# A tiny CLIP with a text tower, for zero-shot.
golden=$source_dir/tests/golden
mkdir clip
cp "$golden"/zero_shot/model/* clip/
echo '{"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8}' >clip/preprocessor_config.json
printf 'cat\ngreat white shark\n' >classes.txt

small() {
    sed -e "s#check models/clip-b32 against=clip-b32#check $golden/vit/clip_projection against=$golden/vit/clip_projection/#" \
        -e 's#/\.reference#/reference#' -e 's#zero-shot models/clip-b32#zero-shot clip#' \
        -e 's#clip cat.jpg#clip pictures/blobs/00.png#' -e "s#build/release/bin/refract#$refract#g" -e 's#mpirun -n 8#mpirun --oversubscribe -n 2#' \
        -e 's#models/clip-b32#model#g' -e 's#/data/imagenet/train#pictures#' \
        -e 's#cat.jpg dog.png#pictures/blobs/00.png pictures/stripes/03.png#' \
        -e 's#blocks.8.#blocks.2.#' \
        -e "s#sbatch launch/#bash $source_dir/launch/#" <<<"$1"
}

n_run=0
while IFS= read -r line; do
    if [[ -n ${not_run[$line]:-} ]]; then
        unset "not_run[$line]"
        continue
    fi
    [[ $line == *"train run.yaml"* || $line == sbatch* ]] && sed -i 's/epochs: [0-9]*/epochs: 1/' run.yaml
    command=$(small "$line")
    bash -c "$command" >log.txt 2>&1 </dev/null || {
        cat log.txt >&2
        fail "README: $line"
    }
    n_run=$((n_run + 1))
done < <(awk '/^```sh$/ {inside = 1; next} /^```/ {inside = 0} inside' "$source_dir/README.md")
((n_run >= 8)) || fail "only $n_run command lines found"
((${#not_run[@]} == 0)) || fail "listed here but not in README.md: ${!not_run[*]}"
expect_file exported/resid-l2/cfg.json acts.safetensors runs/first/eval.json
