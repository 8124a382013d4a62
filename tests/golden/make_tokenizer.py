"""Golden file for CLIP's tokenizer: the first merges of CLIP's own byte-pair table as a small
tokenizer of its own (vocab.json with merges.txt, and tokenizer.json), and what transformers'
tokenizer makes of texts with it.

Run: python make_tokenizer.py   (writes tokenizer/ beside this file; needs transformers, and
open_clip_torch, which carries the table)
"""

import gzip
import json
import pathlib
import shutil

import open_clip
import tokenizers
import transformers
from transformers import CLIPTokenizer

OUT = pathlib.Path(__file__).resolve().parent / "tokenizer"
N_MERGES = 1500
TEXTS = [
    "a photo of a cat.", "A Photo of a DOG", "", "   ", "it's they're I'VE we'll you'd I'm don't",
    "a photo of 2 red, round (tasty) apples!!!", "2024 is 4x500+24", "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "cafe\u0301 e\u0301 A\u030a", "\u65e5\u672c\u8a9e \u3068 \u4e2d\u6587", "\U0001f600\U0001f680 emoji \u2764\ufe0f",
    "\u0130stanbul \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03a3", "tab\tnew\nline\u00a0nbsp\u2003em", "'''quotes''s", "a-b_c/d\\e@f#g",
    "x" * 300, " ".join(["word"] * 200), "\u00bd \u2167 \u0665 \u00b2", "\u1e9e \ufb01ne", "O'Neil's o'clock 's",
    "end <|endoftext|> of text", "\u0e01\u0e33\u0e41\u0e1e\u0e07", "a\u200bb\u00adc",
]


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "two").mkdir(parents=True)
    (OUT / "one").mkdir()
    table = pathlib.Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.open(table).read().decode("utf-8").split("\n")[1:N_MERGES + 1]
    from open_clip.tokenizer import bytes_to_unicode
    vocab = list(bytes_to_unicode().values())
    vocab += [v + "</w>" for v in vocab] + ["".join(m.split()) for m in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocab)}
    (OUT / "two" / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (OUT / "two" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer(str(OUT / "two" / "vocab.json"), str(OUT / "two" / "merges.txt"))
    tokenizer.save_pretrained(str(OUT / "one"))
    for name in OUT.joinpath("one").iterdir():
        if name.name != "tokenizer.json":
            name.unlink()
    cases = [{"text": t, "context": n,
              "ids": tokenizer(t, truncation=True, max_length=n)["input_ids"]}
             for n in (77, 8) for t in TEXTS]
    (OUT / "cases.json").write_text(json.dumps(
        {"made_with": f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}",
         "cases": cases}, indent=None))


main()
