"""Fetch what Refract reads of a model on the Hugging Face Hub, with the Hub's own client.

usage: hub_snapshot.py --probe NAME     is the model there, with all that is needed?
       hub_snapshot.py NAME DIR

Exit status: 0 fetched, 3 the Hub could not be reached or refused, 4 the registry says that the model
is not on it (one line on stderr says why). Interrupted downloads are resumed by the client.
"""

import os
import sys

sys.dont_write_bytecode = True  # a checkout stays as it was
import registry  # noqa: E402

# Before the import: the client reads them once. A Hub that is far away answers within seconds.
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "8")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

TOKENIZER = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
             "special_tokens_map.json"]
PROCESSOR = ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"]


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def first_weights(files, stems, folder=""):
    """The weight files to take: safetensors before archives, one file before an index's shards."""
    for stem in stems:
        for end in (".safetensors", ".bin"):
            one, index = f"{folder}{stem}{end}", f"{folder}{stem}{end}.index.json"
            if one in files:
                return [one]
            if index in files:
                return [index] + [f for f in files
                                  if f.startswith(f"{folder}{stem}-") and f.endswith(end)]
    raise ValueError("it has no weights in safetensors form and no PyTorch archive")


def choose(files, library):
    """The files to take of a repository."""
    if library == "any":
        library = "transformers" if "config.json" in files else "open_clip"
    folder = ""
    if library == "open_clip":
        config, stems = "open_clip_config.json", ["open_clip_model", "open_clip_pytorch_model"]
    else:
        config, stems = "config.json", ["model", "pytorch_model", "model.fp16"]
        if config not in files and "image_encoder/config.json" in files:  # a pipeline's encoder
            folder = "image_encoder/"
    if folder + config not in files:
        raise ValueError(f"it has no {config}")
    extra = TOKENIZER + PROCESSOR + ["image_processor/preprocessor_config.json"]
    return ([folder + config] + first_weights(files, stems, folder)
            + [f for f in extra if f in files])


def find_files(name):
    """Repository, the commit that it stands for now, and the files to take of it."""
    from huggingface_hub import HfApi
    library, repo = registry.find(name)
    info = HfApi().model_info(repo, timeout=8)
    return repo, info.sha, choose([s.rfilename for s in info.siblings], library)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    is_probe = sys.argv[1] == "--probe"
    name = sys.argv[2] if is_probe else sys.argv[1]
    try:
        registry.find(name)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(4)
    try:
        repo, commit, files = find_files(name)
        if not is_probe:
            from huggingface_hub import snapshot_download
            snapshot_download(repo, revision=commit, local_dir=sys.argv[2], allow_patterns=files)
    except Exception as error:  # the client's errors have many types; each has one line to show
        print(f"{name}: {first_line(error)}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
