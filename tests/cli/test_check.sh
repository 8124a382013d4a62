# refract check: what it prints and how it exits; the table of docs names every family.
. "$(dirname "$0")/lib.sh"

golden=$source_dir/tests/golden/vit

expect_exit 0 "$refract" check "$golden/vit" "against=$golden/vit/reference.safetensors"
expect_in out.txt "embeddings"
expect_in out.txt "layer 2"
expect_in out.txt "end"
expect_in out.txt "points, largest error"
[[ $(grep -c '^layer ' out.txt) == 3 ]] || fail "expected one line for each of three layers"
if grep -q "TOO LARGE" out.txt; then
    fail "something is too large"
fi

# pictures of another size, and the text tower, as the reference's input says
expect_exit 0 "$refract" check "$golden/dinov2_classifier" \
    "against=$golden/dinov2_classifier/reference_42.safetensors"
expect_in out.txt "in the model alone"
expect_exit 0 "$refract" check "$golden/clip_whole" \
    "against=$golden/clip_whole/reference_text.safetensors"

# a tolerance that no fp32 meets: the worst point is named, on both streams
expect_exit 1 "$refract" check "$golden/vit" "against=$golden/vit/reference.safetensors" tol=1e-9
expect_in out.txt "TOO LARGE"
worst=$(sed -n 's/.*largest error .* at //p' out.txt)
[[ -n $worst ]] || fail "the worst point is not named"
expect_in err.txt "$worst differs from the reference"

# another model's reference, files that are none, words that are none
expect_exit 1 "$refract" check "$golden/vit" "against=$golden/dinov2/reference.safetensors"
expect_exit 1 "$refract" check "$golden/vit" "against=$golden/vit/model.safetensors"
expect_in err.txt "launch/dump-reference"
expect_exit 1 "$refract" check "$golden/vit" against=nowhere.safetensors
expect_in err.txt "nowhere.safetensors"
expect_exit 2 "$refract" check "$golden/vit"
expect_in err.txt "against=FILE"
expect_exit 2 "$refract" check
expect_exit 2 "$refract" check "$golden/vit" against=x tol=0
expect_exit 2 "$refract" check "$golden/vit" against=x format=html
expect_exit 2 "$refract" check "$golden/vit" against=x tolerance=1

# a row of a table
expect_exit 0 "$refract" check "$golden/vit" "against=$golden/vit/reference.safetensors" \
    format=markdown
expect_in out.txt "| vit | vit | 2 x 3 x 26 x 26 | 60 | transformers "

# the table of docs: the same models and libraries, whatever the digits
"$source_dir/launch/models-table" "$refract" >table.md
columns() {
    awk -F'|' 'NR > 2 { split($6, library, " "); print $2, $3, $4, $5, library[1] }' "$1"
}
diff <(columns "$source_dir/docs/models-table.md") <(columns table.md) ||
    fail "docs/models-table.md is not what launch/models-table prints"
rows=$(($(wc -l <table.md) - 2))
references=$(find "$golden" -name 'reference*.safetensors' | wc -l)
[[ $rows == "$references" ]] || fail "$rows rows for $references references"
awk -F'|' 'NR > 2 && !($7 + 0 <= 2e-5) { print; bad = 1 } END { exit bad }' table.md ||
    fail "a row is above 2e-5"

# launch/dump-reference teaches, and says what is missing
expect_exit 0 "$source_dir/launch/dump-reference" --help
expect_in out.txt "refract check"
expect_exit 2 "$source_dir/launch/dump-reference"
expect_exit 1 env PYTHON=no-such-python "$source_dir/launch/dump-reference" model picture.png
expect_in err.txt "no-such-python"
