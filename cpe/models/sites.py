"""Where a network reads its text: the key and value projections that gates sit on, all of them or none."""

# Axes: D text width, O projection width.

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

PARTS = ("to_k", "to_v")
BIAS = ".bias"  # at the end of a bias's name, after its layer's path; a weight is named by the path alone
_NEEDS = (
    "CPE's gates belong to attentions whose keys and values are computed from the text alone (attn2.to_k, attn2.to_v)"
)


def find_projections(network: nn.Module) -> dict[str, nn.Linear]:
    """Returns the key and value projections of every attention to the text, by module path.

    Raises:
        ValueError: the network has none, reads text elsewhere too, has some of them fused, or of a form that the
            method does not cover.
    """
    attentions = dict(_attentions(network))
    beside = [name for name, module in network.named_modules() if _reads_beside(module)]
    if beside:
        raise ValueError(
            f"{type(network).__name__} reads its text through add_k_proj and add_v_proj beside the picture's own keys "
            f"({beside[0]} and {len(beside) - 1} more), as DeepFloyd IF and Kandinsky 2 do; {_NEEDS}"
        )
    if not attentions:
        raise ValueError(_why_none(network))
    fused = [name for name, module in attentions.items() if is_fused(module)]
    if fused:
        raise ValueError(
            f"the projections of {fused[0]} and {len(fused) - 1} more are fused, which bypasses gates; "
            "call unfuse_qkv_projections() on the pipeline (or the network) first"
        )
    found = {f"{name}.{part}": getattr(module, part) for name, module in attentions.items() for part in PARTS}
    widths = {site: widths_of(module)[1] for site, module in found.items()}
    if len(set(widths.values())) > 1:
        (one, first), (other, second) = [
            next(x for x in widths.items() if x[1] == w) for w in sorted(set(widths.values()))[:2]
        ]
        raise ValueError(
            f"{type(network).__name__} reads several texts: {one} is {first} wide and {other} {second}; a gate is "
            "trained on the embeddings of one text encoder"
        )
    for name, module in attentions.items():
        block, queries, keys = name.rpartition(".")[0], widths_of(module.to_q)[0], widths_of(module.to_k)[0]
        if queries != keys or hasattr(network.get_submodule(block), "norm1_context"):
            raise ValueError(
                f"{name} of {type(network).__name__} has grouped heads (queries {queries} wide, keys {keys}) or a "
                "normalisation of the text of its own, as Lumina-Next has; gates are trained on one text that all "
                "layers see alike, so this network is not supported"
            )
    return found


def widths_of(module: nn.Module) -> tuple[int, int]:
    """Returns a projection's output width O and text width D; packed weights have other shapes than these."""
    inner: Any = innermost(module)
    return inner.out_features, inner.in_features


def innermost(module: nn.Module) -> nn.Module:
    """Returns the module itself where LoRA layers or a compiler sit around it: they may come and go."""
    while True:
        for around in ("base_layer", "_orig_mod"):
            if isinstance(inner := getattr(module, around, None), nn.Module):
                module = inner
                break
        else:
            return module


def weight_of(network: nn.Module, path: str) -> Tensor:
    """Returns the weight of a layer: (O, D) of a projection, (O, I, height, width) of a convolution.

    Raises:
        ValueError: it is packed, as quantised ones are, or the layer is of neither kind.
    """
    module: Any = innermost(network.get_submodule(path))
    shape = _shape_of(module)
    if not shape:
        raise ValueError(f"{path} ({type(module).__name__}) is neither a projection nor a convolution")
    weight = module.weight
    if type(weight) not in (Tensor, nn.Parameter) or tuple(weight.shape) != shape:
        raise ValueError(
            f"the weights of {path} are packed or quantised ({type(module).__name__}, {type(weight).__name__} of "
            f"{tuple(getattr(weight, 'shape', ()))} for {' x '.join(map(str, shape))}); train on the model as it was "
            "published, then attach the gates to the quantised one"
        )
    return weight


def layer_of(name: str) -> str:
    """Returns the path of the layer that a weight is of, which is its name, or a bias, named `path.bias`."""
    return name.removesuffix(BIAS)


def parameter_of(network: nn.Module, name: str) -> Tensor:
    """Returns the weight of a layer by the layer's path, or its bias (O,) by `path.bias`.

    Raises:
        ValueError: the layer's weight is packed, it is neither projection nor convolution, or it has no bias.
    """
    path = layer_of(name)
    weight = weight_of(network, path)
    if path == name:
        return weight
    bias: Any = getattr(innermost(network.get_submodule(path)), "bias", None)
    if not isinstance(bias, Tensor):
        raise ValueError(f"{path} of {type(network).__name__} has no bias")
    return bias


def _shape_of(module: Any) -> tuple[int, ...]:
    """Returns the shape that a layer's unpacked weight has; () for what is neither a projection nor a convolution."""
    if hasattr(module, "out_features"):
        return module.out_features, module.in_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.out_channels, module.in_channels // module.groups, *module.kernel_size
    return ()


def is_fused(attention: Any) -> bool:
    """Whether an attention computes keys and values by a joined projection, past to_k and to_v."""
    if hasattr(attention, "unfuse_projections"):  # its own flag says what it computes
        return bool(getattr(attention, "fused_projections", False))
    # Elsewhere the processor alone decides: the flag stays set when diffusers unfuses.
    return type(getattr(attention, "processor", None)).__name__.startswith("Fused")


def _attentions(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in network.named_modules():
        if all(isinstance(getattr(module, part, None), nn.Module) for part in ("to_q", *PARTS)):
            block, _, last = name.rpartition(".")
            if "motion_modules" in block:  # AnimateDiff's, which attend to other frames
                continue
            if last == "attn2":  # so is the second self-attention of temporal blocks named
                reads = getattr(module, "is_cross_attention", True)
            else:
                reads = last == "attn1" and getattr(network.get_submodule(block), "only_cross_attention", False)
            if reads:
                yield name, module


def _reads_beside(module: nn.Module) -> bool:
    """Whether an attention of the U-Nets' own class takes keys and values of the text beside the picture's."""
    added = isinstance(getattr(module, "add_k_proj", None), nn.Module)
    return (
        added
        and type(module).__name__ == "Attention"
        and "AddedKV" in type(getattr(module, "processor", None)).__name__
    )


def _why_none(network: nn.Module) -> str:
    name = type(network).__name__
    elsewhere = [
        path
        for path, module in network.named_modules()
        if isinstance(getattr(module, "to_k", None), nn.Module) and getattr(module, "is_cross_attention", False)
    ]
    if elsewhere:
        return (
            f"{name} attends to its text at {elsewhere[0]} and {len(elsewhere) - 1} more places, in blocks of its own "
            f"(as Kandinsky 3 does) that are not supported; {_NEEDS}"
        )
    return f"{name} has no cross-attention that reads text; {_NEEDS}"
