"""Tar files as others write them: Python's tarfile (what WebDataset writes with) in its three formats, and GNU tar's
two kinds of sparse files. usage: make_tar.py [FOLDER]"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile

LONG = "folder-" + 30 * "0123456789" + "/überlang.long.png"


def add(tar, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def with_tarfile(path, fmt):
    with tarfile.open(path, "w", format=fmt) as tar:
        if fmt == tarfile.PAX_FORMAT:  # versions, where a format has room for them
            tar.pax_headers = {"comment": f"python {sys.version.split()[0]}"}
        add(tar, "set", type=tarfile.DIRTYPE)
        add(tar, "set/grün.jpg", bytes(range(256)) * 3)
        add(tar, "set/grün.cls", b"17\n")
        add(tar, "empty.png")
        add(tar, "block.webp", b"x" * 512)
        add(tar, "block.json", b'{"label": 4, "caption": "a block"}')
        if fmt != tarfile.USTAR_FORMAT:
            add(tar, LONG, b"long")
        add(tar, "link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.jpg", type=tarfile.LNKTYPE, linkname="block.webp")
        add(tar, "../../up.jpeg", b"up")
        add(tar, "/root.jpg", b"r", mtime=1.5)


def with_gnu_tar(path, fmt):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "hole.jpg"), "wb") as f:
            f.truncate(1 << 20)
            f.seek(1 << 19)
            f.write(b"in the middle")
        subprocess.run(["tar", "--sparse", f"--format={fmt}", "--owner=0", "--group=0", "--mtime=@0", "-C", folder,
                        "-cf", path, "hole.jpg"], check=True)


if __name__ == "__main__":
    here = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "tar")
    with_tarfile(os.path.join(here, "ustar.tar"), tarfile.USTAR_FORMAT)
    with_tarfile(os.path.join(here, "gnu.tar"), tarfile.GNU_FORMAT)
    with_tarfile(os.path.join(here, "pax.tar"), tarfile.PAX_FORMAT)
    with_gnu_tar(os.path.join(here, "sparse-gnu.tar"), "gnu")
    with_gnu_tar(os.path.join(here, "sparse-pax.tar"), "posix")
