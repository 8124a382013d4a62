# The recipes: every file of configs/ is read and planned; the suite of the Prisma paper trains from one reading
# and ends beside the published figures.
. "$(dirname "$0")/lib.sh"

"$build_dir/tests/make_clip" clip
ln -s "$source_dir/configs" configs # recipes name configs/published/ from the root of the repository
small=(model.path=clip data.path=pictures data.holdout=0.2 activations.group_pictures=4 activations.pool_groups=3 train.batch_tokens=16
    train.warmup_steps=1 train.sample_tokens=128 train.threads=1 train.log_every=1)

# Every recipe of the paper: as many coders as its table has, and each of them in the file of published figures.
for recipe in clip-all:24 clip-cls:12 clip-cls-topk:12 clip-spatial:12 clip-spatial-topk:24 clip-transcoder:11 dino:12 suite:71; do
    file=configs/prisma-${recipe%:*}.yaml
    expect_exit 0 "$refract" plan "$file" "${small[@]}"
    sed -n '/^coders$/,/^data$/p' out.txt | grep -E '^  (vanilla|topk|transcoder|dino)' | awk '{print $1}' >names.txt
    [[ $(wc -l <names.txt) == "${recipe#*:}" ]] || fail "$file: $(wc -l <names.txt) coders, expected ${recipe#*:}"
    [[ $recipe == clip-spatial-topk:* ]] && continue # the paper names them and gives no figures
    missing=$(grep -vxFf <(cut -d, -f1 configs/published/prisma.csv) names.txt || true)
    [[ -z $missing ]] || fail "$file: not published: $missing"
done
[[ $(tail -n +2 configs/published/prisma.csv | wc -l) == 83 ]] || fail "prisma.csv: expected 71 and 12 coders"

# The paper's sweeps stand in comments; without the marks they are read.
for recipe in clip-all clip-cls clip-cls-topk clip-spatial clip-transcoder dino; do
    sed '/^# sweep:$/,/^$/s/^# //' "configs/prisma-$recipe.yaml" >swept.yaml
    grep -q '^sweep:' swept.yaml || fail "prisma-$recipe.yaml: no sweep"
    expect_exit 0 "$refract" plan swept.yaml "${small[@]}"
    grep -q -- '-lr1e-07' out.txt || fail "prisma-$recipe.yaml: no axis lr"
done

# The other recipes are for DINOv2-small; a plan needs its configuration alone.
mkdir dinov2-small
sed 's/"hidden_size": 32/"hidden_size": 384/; s/"num_hidden_layers": 3/"num_hidden_layers": 12/; s/"num_attention_heads": 2/"num_attention_heads": 6/' \
    model/config.json >dinov2-small/config.json
cp model/preprocessor_config.json dinov2-small
for file in configs/*.yaml; do
    [[ $file == configs/prisma-* ]] || expect_exit 0 "$refract" plan "$file" model.path=dinov2-small data.path=pictures
done

# What a table says of a coder is what the suite trains it with: l1 is 27.7 times the paper's, k the paper's.
expect_exit 0 "$refract" train configs/prisma-suite.yaml "${small[@]}" output.dir=suite
expect_in out.txt "beside the figures of configs/published/prisma.csv"
expect_in out.txt "wrote suite/published.csv"
[[ $(tail -n +2 suite/summary.csv | wc -l) == 71 ]] || fail "summary.csv: expected 71 coders"
awk -F, 'NR == FNR && FNR == 1 { for (i = 1; i <= NF; i++) p[$i] = i; next }
    NR == FNR { l1[$p["name"]] = $p["l1"]; k[$p["name"]] = $p["k"]; tokens[$p["name"]] = $p["tokens"]; next }
    FNR == 1 { for (i = 1; i <= NF; i++) s[$i] = i; next }
    { name = $s["name"]; seen++
      if (tokens[name] != $s["tokens"]) { print name ": tokens " $s["tokens"]; bad = 1 }
      if (l1[name] != "" && ($s["l1"] / l1[name] < 27.6 || $s["l1"] / l1[name] > 27.9)) { print name ": l1 " $s["l1"]; bad = 1 }
      if (k[name] != "" && k[name] != $s["k"]) { print name ": k " $s["k"]; bad = 1 } }
    END { exit bad || seen != 71 }' configs/published/prisma.csv suite/summary.csv || fail "the suite is not what the tables say"

# Before an evaluation ours are of the last batch; after it they are held out, and more of them.
[[ $(head -n 1 suite/published.csv) == coder,table,figure,pictures,ours,published,difference ]] || fail "published.csv: $(head -n 1 suite/published.csv)"
grep -qE '^transcoder-l4,"Table 8",explained_variance,"trained on, last batch",[-0-9.e]+,0.76,[-0-9.e]+$' suite/published.csv || fail "transcoder-l4 before eval"
grep -q '^vanilla-all-l7-resid_post,"Table 4",l0_cls,"trained on, last batch",,494.3,$' suite/published.csv || fail "an empty cell where nothing was measured"
expect_exit 0 "$refract" eval suite
expect_exit 0 "$refract" report suite
grep -qE '^vanilla-all-l7-resid_post,"Table 4",l0_cls,"held out",[0-9.e+]+,494.3,[-0-9.e+]+$' suite/published.csv || fail "held-out figures"
[[ $(grep -c '<tr class="beside"' suite/sweep.html) == 71 ]] || fail "a row of the page for each coder"
awk -F, 'NR > 1 && $5 != "" { d = $(NF - 2) - $(NF - 1) - $NF; if (d > 1e-6 || d < -1e-6) { print; exit 1 } }' \
    <(sed 's/"[^"]*"//g' suite/published.csv) || fail "the difference is not the difference"

# Another file by word of mouth; what is wrong with one is said.
printf 'name,l0\ntopk64-cls-l3,60\n' >other.csv
expect_exit 0 "$refract" report suite published=other.csv
[[ $(tail -n +2 suite/published.csv | wc -l) == 1 ]] || fail "other.csv: $(cat suite/published.csv)"
expect_exit 1 "$refract" report suite published=nowhere.csv
printf 'name,l0\nnobody,60\n' >other.csv
expect_exit 1 "$refract" report suite published=other.csv
expect_in err.txt "of no coder of this run"
expect_exit 1 "$refract" train configs/prisma-suite.yaml "${small[@]}" output.dir=never output.published=nowhere.csv
expect_in err.txt "output.published: there is no file 'nowhere.csv'"
[[ ! -e never ]] || fail "a run that begins without its published figures"
mv configs gone # the run is read elsewhere, where its file is not
expect_exit 0 "$refract" report suite
expect_in err.txt "output.published is left out"
