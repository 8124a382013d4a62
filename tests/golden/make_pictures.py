"""Golden files of pictures: one small picture of each kind and what Pillow makes of it, pictures that
must be refused, resizes by Pillow, and what transformers' PIL image processors make of a picture.

    python tests/golden/make_pictures.py        writes tests/golden/pictures/
"""
import io
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image, features
from safetensors.numpy import save_file
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = pathlib.Path(__file__).parent / "pictures"
ACCEPT, REFUSE, PROCESSORS = HERE / "accept", HERE / "refuse", HERE / "processors"
WIDTH, HEIGHT = 37, 29
RNG = np.random.default_rng(20240611)


def scene(height, width, channels):
    """Waves of several lengths, hard edges and some noise, [height, width, channels] in 0..255."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.empty((height, width, channels))
    for c in range(channels):
        wave = np.sin(x / (2.0 + c) + c) + np.cos(y / (3.0 + 2 * c)) + np.sin((x + y) / 11.0)
        out[..., c] = 127.5 + 42 * wave + RNG.normal(0, 12, (height, width))
    out[height // 3 : height // 2, width // 4 : width // 2] = [255, 0, 128, 60][:channels]
    out[-3:, -4:] = [0, 255, 255, 0][:channels]
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def chunk(tag, data):
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))


def pack(row, depth):
    """Samples of one row [n] to bytes, most significant bits first."""
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).ravel()
    return np.packbits(bits).tobytes()


def header(width, height, depth=8, color=2, interlaced=False):
    fields = (width, height, depth, color, 0, 0, int(interlaced))
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *fields))


def png(samples, depth, color, palette=b"", trns=b"", interlaced=False):
    """A PNG of `samples` [height, width, channels], written here because Pillow cannot write all."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
                  (1, 0, 2, 1)]
    raw = b""
    for top, left, down, across in passes:
        part = samples[top::down, left::across]
        if part.size:
            raw += b"".join(b"\0" + pack(row.ravel(), depth) for row in part)
    parts = [b"\x89PNG\r\n\x1a\n", header(width, height, depth, color, interlaced)]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", trns)] if trns else []
    return b"".join(parts + [chunk(b"IDAT", zlib.compress(raw, 9)), chunk(b"IEND", b"")])


def saved(image, **how):
    out = io.BytesIO()
    image.save(out, **how)
    return out.getvalue()


def pngs():
    rgb, rgba = scene(HEIGHT, WIDTH, 3), scene(HEIGHT, WIDTH, 4)
    grey, indices = rgb[..., :1], scene(HEIGHT, WIDTH, 1) // 16
    wide = scene(HEIGHT, WIDTH, 4).astype(np.uint16) * 257 + RNG.integers(-90, 90, (HEIGHT, WIDTH, 4))
    wide = np.clip(wide, 0, 65535).astype(np.uint16)
    palette = scene(4, 4, 3).tobytes()
    return {
        "rgb.png": png(rgb, 8, 2),
        "rgb-trns.png": png(rgb, 8, 2, trns=struct.pack(">HHH", 255, 0, 128)),
        "rgb-interlaced.png": png(rgb, 8, 2, interlaced=True),
        "rgb16.png": png(wide[..., :3], 16, 2),
        "rgba.png": png(rgba, 8, 6),
        "rgba16.png": png(wide, 16, 6),
        "grey.png": png(grey, 8, 0),
        "grey-trns.png": png(grey, 8, 0, trns=struct.pack(">H", 255)),
        "grey1.png": png(grey // 128, 1, 0),
        "grey2.png": png(grey // 64, 2, 0),
        "grey4.png": png(grey // 16, 4, 0),
        "grey16.png": png(wide[..., :1] // np.uint16(150), 16, 0),
        "grey-alpha.png": png(rgba[..., 2:], 8, 4),
        "grey-alpha16.png": png(wide[..., 2:], 16, 4),
        "palette.png": png(indices, 8, 3, palette),
        "palette-trns.png": png(indices, 8, 3, palette, trns=bytes([0, 128, 255])),
        "palette-short.png": png(indices, 8, 3, palette[:21]),
        "palette1.png": png(indices // 8, 1, 3, palette[:6]),
        "palette4-interlaced.png": png(indices, 4, 3, palette, interlaced=True),
        "one.png": png(rgb[:1, :1], 8, 2),
        "tall-interlaced.png": png(rgb[:, :1], 8, 2, interlaced=True),
    }


def jpegs():
    rgb = Image.fromarray(scene(HEIGHT, WIDTH, 3))
    cmyk = Image.fromarray(scene(HEIGHT, WIDTH, 4), "CMYK")
    cmyk_bytes = saved(cmyk, format="JPEG", quality=90)
    at = cmyk_bytes.index(b"Adobe") + 11  # the marker's transform: 0 says CMYK, 2 says YCCK
    assert cmyk_bytes[at] in (0, 2)
    return {
        "420.jpg": saved(rgb, format="JPEG", quality=85, subsampling="4:2:0"),
        "422.jpg": saved(rgb, format="JPEG", quality=85, subsampling="4:2:2"),
        "444.jpg": saved(rgb, format="JPEG", quality=95, subsampling="4:4:4"),
        "progressive.jpg": saved(rgb, format="JPEG", quality=80, progressive=True),
        "restarts.jpg": saved(rgb, format="JPEG", quality=80, restart_marker_blocks=2),
        "grey.jpg": saved(rgb.convert("L"), format="JPEG", quality=80),
        "keep-rgb.jpg": saved(rgb, format="JPEG", quality=80, keep_rgb=True),
        "cmyk.jpg": cmyk_bytes[:at] + b"\0" + cmyk_bytes[at + 1 :],
        "ycck.jpg": cmyk_bytes[:at] + b"\2" + cmyk_bytes[at + 1 :],
        "a-jpeg.png": saved(rgb, format="JPEG", quality=60),
    }


def webps():
    rgb, rgba = Image.fromarray(scene(HEIGHT, WIDTH, 3)), Image.fromarray(scene(HEIGHT, WIDTH, 4))
    return {
        "lossy.webp": saved(rgb, format="WEBP", quality=80),
        "lossless.webp": saved(rgb, format="WEBP", lossless=True),
        "lossy-alpha.webp": saved(rgba, format="WEBP", quality=80),
        "lossless-alpha.webp": saved(rgba, format="WEBP", lossless=True, exact=True),
    }


def refused(good):
    """Pictures with damage, by what is wrong with them."""
    whole = good["rgb.png"]
    idat = whole.index(b"IDAT")
    jpeg, progressive = good["420.jpg"], good["progressive.jpg"]
    sof = jpeg.index(b"\xff\xc0")
    frames = [Image.fromarray(scene(8, 8, 3)) for _ in range(2)]
    return {
        "empty.jpg": b"",
        "text.png": b"this is not a picture\n",
        "signature-only.png": whole[:8],
        "truncated.png": whole[: len(whole) * 2 // 3],
        "bad-checksum.png": whole[: idat + 40] + bytes([whole[idat + 40] ^ 255]) + whole[idat + 41 :],
        "no-palette.png": png(scene(4, 4, 1), 8, 3),
        "zero-width.png": whole[:8] + header(0, 4) + whole[33:],
        "huge.png": whole[:8] + header(2**31 - 1, 2**31 - 1) + whole[33:],
        "more-than-fits.png": whole[:8] + header(16384, 16384) + whole[33:],
        "start-only.jpg": jpeg[:4],
        "truncated.jpg": jpeg[: len(jpeg) * 2 // 3],
        "truncated-progressive.jpg": progressive[: len(progressive) * 2 // 3],
        "no-scan.jpg": jpeg[: jpeg.index(b"\xff\xda")],
        "huge.jpg": jpeg[: sof + 5] + struct.pack(">HH", 65500, 65500) + jpeg[sof + 9 :],
        "zero-height.jpg": jpeg[: sof + 5] + struct.pack(">H", 0) + jpeg[sof + 7 :],
        "head-only.webp": good["lossy.webp"][:20],
        "truncated.webp": good["lossy.webp"][: len(good["lossy.webp"]) // 2],
        "truncated-lossless.webp": good["lossless.webp"][: len(good["lossless.webp"]) // 2],
        "animated.webp": saved(frames[0], format="WEBP", save_all=True, append_images=frames[1:]),
    }


RESIZES = [  # height, width of the result, filter
    (23, 31, 3), (23, 31, 2), (23, 31, 1), (7, 5, 3), (7, 5, 2), (7, 5, 1), (64, 101, 3),
    (62, 98, 2), (61, 40, 3), (30, 97, 3), (61, 97, 3), (1, 1, 3), (1, 200, 1),
]

PROCESSOR_CASES = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28},
                                   image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]),
    "vit": ViTImageProcessorPil(size={"height": 24, "width": 30}),
    "padded": CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 37, "width": 23}),
    "bare": ViTImageProcessorPil(size={"height": 9, "width": 8}, do_rescale=False, do_normalize=False),
    "unresized": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 31, "width": 18}),
}


def main():
    for folder in (ACCEPT, REFUSE, PROCESSORS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    tensors = {}
    good = pngs() | jpegs() | webps()
    for name, data in good.items():
        (ACCEPT / name).write_bytes(data)
        tensors[f"rgb/{name}"] = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    for name, data in refused(good).items():
        (REFUSE / name).write_bytes(data)

    wide = scene(61, 97, 3)
    sources = {"wide": wide, "tall": wide.transpose(1, 0, 2), "small": wide[:19, :17]}
    for name, pixels in sources.items():
        (HERE / f"{name}.png").write_bytes(png(pixels, 8, 2))
    for height, width, how in RESIZES:
        tensors[f"resize/{height}x{width}/{how}"] = np.array(
            Image.fromarray(wide).resize((width, height), how))
    for name, processor in PROCESSOR_CASES.items():
        config = processor.to_dict()
        (PROCESSORS / f"{name}.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        for source, pixels in sources.items():
            image = Image.fromarray(np.ascontiguousarray(pixels))
            values = processor(image, return_tensors="np")["pixel_values"][0]
            tensors[f"processor/{name}/{source}"] = np.ascontiguousarray(values.astype(np.float32))

    out = HERE / "pictures.safetensors"
    save_file(tensors, out, metadata={
        "made by": "tests/golden/make_pictures.py",
        "Pillow": PIL.__version__,
        "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
        "libwebp": features.version("webp"),
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    })
    out.chmod(0o644)


main()
