# Help teaches: every command has one with an example; wrong words end with 2 and a hint.
. "$(dirname "$0")/lib.sh"

expect_exit 0 "$refract" help
for command in init plan train cache eval report export info activations check zero-shot; do
    expect_in out.txt "$command"
done
for command in init plan train cache eval report export info activations check zero-shot; do
    expect_exit 0 "$refract" $command --help
    expect_in out.txt "usage: refract $command"
    expect_in out.txt "example"
    expect_exit 0 "$refract" help $command
    expect_exit 0 "$refract" help
done
expect_exit 0 "$refract" --version
expect_exit 2 "$refract"
expect_exit 2 "$refract" trian
expect_in err.txt "train"
for command in init plan train cache eval report export activations check zero-shot; do
    expect_exit 2 "$refract" $command
    expect_in err.txt "usage"
done
expect_exit 0 "$refract" info
expect_in out.txt "openai/clip-vit-base-patch32"
expect_exit 0 "$refract" info model
expect_in out.txt "blocks.0.hook_resid_post"
# The committed page of settings is what the program says.
"$refract" help settings format=markdown >settings.md
cmp settings.md "$source_dir/docs/settings.md" || fail "docs/settings.md is old: refract help settings format=markdown >docs/settings.md"
