"""The registry of models, read out of its source: a checkout need not be built.

usage: registry.py NAME     prints "library<TAB>repository", or says why there is none (status 4)
       registry.py          prints all, with the names in front

A name that is not in the registry is taken for a repository on the Hub.
"""

import difflib
import pathlib
import re
import sys

TABLE = pathlib.Path(__file__).resolve().parents[2] / "src" / "vit" / "registry_table.c"
ENTRY = re.compile(r'^ +(HUB|OPEN_CLIP|NAMED)\((.*)\),$', re.M)
WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|NULL')


def entries():
    """name -> (library, repository or None, note)"""
    found = {}
    for kind, words in ENTRY.findall(TABLE.read_text()):
        words = [m.group(1) for m in WORD.finditer(words)]
        if kind == "HUB":
            found[words[0]] = ("transformers", words[0], "")
        elif kind == "OPEN_CLIP":
            found["open-clip:" + words[0]] = ("open_clip", words[0], "")
        else:
            name, repo, library, _, note = words
            found[name] = (library, repo, note)
    if not found:
        raise ValueError(f"{TABLE} has no entries")
    return found


def find(name):
    """(library, repository). ValueError says why a model of the registry cannot be fetched."""
    known = entries()
    if name in known:
        library, repo, note = known[name]
        if repo is None:
            raise ValueError(note)
        return library, repo
    by_repo = [library for library, repo, _ in known.values() if repo == name]
    if by_repo:
        return by_repo[0], name
    if name.startswith("open-clip:"):
        return "open_clip", name[len("open-clip:"):]
    if "/" not in name:
        near = difflib.get_close_matches(name, known, 1, 0)
        raise ValueError(f"it is no name of the registry (the nearest is {near[0]}) and no "
                         "repository ORGANISATION/MODEL")
    return "any", name


def main():
    if len(sys.argv) == 1:
        for name, (library, repo, _) in entries().items():
            print(name, library, repo or "-", sep="\t")
        return
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(*find(sys.argv[1]), sep="\t")
    except ValueError as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    main()
