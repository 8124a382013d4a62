"""Fetch what Refract reads of a model on the Hugging Face Hub, with the Hub's own client.

usage: hub_snapshot.py --probe NAME     is the model there, with all that is needed?
       hub_snapshot.py NAME DIR

Exit status: 0 fetched, 3 the Hub could not be reached or refused (one line on stderr says why).
Interrupted downloads are resumed by the client.
"""

import os
import sys

# Before the import: the client reads them once. A Hub that is far away answers within seconds.
os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "8")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from huggingface_hub import HfApi, snapshot_download  # noqa: E402

WANTED = ["config.json", "preprocessor_config.json"]


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def weights_of(files):
    """The weight files to take: one safetensors file, or an index and its shards."""
    if "model.safetensors" in files:
        return ["model.safetensors"]
    if "model.safetensors.index.json" in files:
        return ["model.safetensors.index.json"] + [
            f for f in files if f.startswith("model-") and f.endswith(".safetensors")]
    raise ValueError("it has no weights in safetensors form")


def find_files(name):
    """The commit that the name stands for now, and the files to take of it."""
    info = HfApi().model_info(name, timeout=8)
    files = [s.rfilename for s in info.siblings]
    missing = [f for f in WANTED if f not in files]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    return info.sha, WANTED + weights_of(files)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    is_probe = sys.argv[1] == "--probe"
    name = sys.argv[2] if is_probe else sys.argv[1]
    try:
        commit, files = find_files(name)
        if not is_probe:
            snapshot_download(name, revision=commit, local_dir=sys.argv[2], allow_patterns=files)
    except Exception as error:  # the client's errors have many types; each has one line to show
        print(f"{name}: {first_line(error)}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
