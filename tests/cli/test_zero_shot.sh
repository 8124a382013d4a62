#!/usr/bin/env bash
# refract zero-shot: builds a classifier, reads it back, ranks classes, and says what is wrong.
. "$(dirname "$0")/lib.sh"

golden=$source_dir/tests/golden
mkdir clip
cp "$golden"/zero_shot/model/* clip/
echo '{"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8}' >clip/preprocessor_config.json
printf 'tench\r\n\ngreat white shark\nT-shirt' >classes.txt
printf 'a {}.\n' >templates.txt
picture=pictures/blobs/00.png

expect_exit 0 "$refract" zero-shot clip names=classes.txt out=classes.safetensors
expect_in out.txt "3 classes of width 12"
expect_exit 0 "$refract" zero-shot clip "$picture" pictures/stripes/03.png classifier=classes.safetensors top=2
(($(grep -c '^  -\?0\.[0-9]\{4\}  ' out.txt) == 4)) || fail "two classes for each of two pictures: $(cat out.txt)"
awk '/^  / { if (last != "" && $1 > last) exit 1; last = $1; next } { last = "" }' out.txt || fail "not sorted"
expect_exit 0 "$refract" zero-shot clip "$picture" classifier="$golden/zero_shot/prisma.npy" top=1
expect_in out.txt "class "
expect_exit 0 "$refract" zero-shot clip names=classes.txt templates=templates.txt out=own.safetensors
! cmp -s classes.safetensors own.safetensors || fail "templates= has no effect"

expect_exit 2 "$refract" zero-shot clip
expect_in err.txt "neither names= with out=, nor pictures with classifier="
expect_exit 1 "$refract" zero-shot clip "$picture" classifier=missing.safetensors
expect_in err.txt "missing.safetensors"
expect_exit 1 "$refract" zero-shot model names=classes.txt out=x.safetensors
expect_in err.txt "tokenizer"
expect_exit 1 "$refract" zero-shot model "$picture" classifier=classes.safetensors
expect_in err.txt "is of width 12, but the model's embeddings are of"
: >empty.txt
expect_exit 1 "$refract" zero-shot clip names=empty.txt out=x.safetensors
expect_in err.txt "empty.txt: no line in it"
[[ ! -e x.safetensors ]] || fail "a file was written by a command that failed"
