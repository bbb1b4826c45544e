"""Fast inference on a CPU: choose the precision, and make a copy of a model with prepacked weights.

oneDNN, which torch ships, multiplies faster than the BLAS behind `nn.Linear` once the weights stand in its own order,
and adds bias and GELU in the same pass; torch offers that only as private operators, so their results are checked
before they are used, and without them everything still runs, as plain modules.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.environment import is_made_by_amd
from rales.models.low_rank import LowRankLinear
from rales.models.vit import Block, ViT

Linear = Callable[[Tensor], Tensor]
Network = TypeVar("Network", bound=nn.Module)


def autocast_dtype(precision: str, device: torch.device | str) -> torch.dtype | None:
    """Precision of a config and a device -> dtype for `torch.autocast`, None for plain float32.

    "auto" is bfloat16 where it pays. Errors: an unknown precision.
    """
    if precision not in ("auto", "bf16", "float32"):
        raise ValueError(f"precision {precision!r} is not known; expected auto, bf16 or float32")
    chosen = precision == "bf16" or (precision == "auto" and bf16_is_faster(torch.device(device).type))
    return torch.bfloat16 if chosen else None


@cache
def bf16_is_faster(device: str = "cpu") -> bool:
    """Device type -> whether bfloat16 computes faster there than float32; asked once a process.

    Nothing is timed, so that two runs on one machine, busy or not, compute alike. A CUDA device is asked for its
    ability. A processor pays with matrix units (AMX), or with avx512_bf16 if it is AMD's: on Intel's without AMX that
    took longer than float32 (docs/results.md, Engines). Other devices and processors, ARM's too, stay in float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    avx512_bf16, amx = (  # which a torch may have lost or not have yet
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return bool(amx or (avx512_bf16 and is_made_by_amd()))


def prepack_for_cpu(network: Network, precision: str = "auto") -> Network:
    """Network with a ViT inside, or a ViT -> a copy for inference, called in the same way, results in float32.

    The blocks compute in bfloat16 or float32 with packed weights; tokens between blocks, pooling and head are
    float32. The copy takes no gradients and does not follow later changes of the network. Where packing cannot be
    had (another device, a torch without the operators, a processor that refuses them) its blocks run under autocast.
    """
    device = next(network.parameters()).device
    dtype = autocast_dtype(precision, device)
    packable = device.type == "cpu" and packing_works(dtype or torch.float32)
    packed = copy.deepcopy(network).eval().requires_grad_(False)
    for vit in [module for module in packed.modules() if isinstance(module, ViT)]:
        for number, block in enumerate(vit.blocks):
            assert isinstance(block, Block)
            if packable:
                vit.blocks[number] = PackedBlock(block, dtype or torch.float32)
            elif dtype:
                vit.blocks[number] = AutocastBlock(block, dtype)
    return packed


class PackedBlock(nn.Module):
    """(B, T, D) -> (B, T, D) float32: a `Block` whose linear layers are packed and compute in `dtype`."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads, self.dtype = block.norm1, block.norm2, block.attn.heads, dtype
        self.qkv, self.proj = packed_linear(block.attn.qkv, dtype), packed_linear(block.attn.proj, dtype)
        self.fc1_gelu = packed_linear(block.mlp.fc1, dtype, gelu=True)
        self.fc2 = packed_linear(block.mlp.fc2, dtype)

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        qkv = self.qkv(self.norm1(tokens).to(self.dtype))
        tokens = tokens + self.proj(compute_attention(qkv, lengths, self.heads))
        return tokens + self.fc2(self.fc1_gelu(self.norm2(tokens).to(self.dtype)))


class AutocastBlock(nn.Module):
    """(B, T, D) -> (B, T, D) float32: a `Block` under autocast to `dtype`."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        self.block, self.dtype = block, dtype

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        with torch.autocast(tokens.device.type, dtype=self.dtype):
            result: Tensor = self.block(tokens, lengths)
        return result


def packed_linear(layer: nn.Linear | LowRankLinear, dtype: torch.dtype, *, gelu: bool = False) -> Linear:
    """Linear layer -> the same function on `dtype`, its weight in oneDNN's order; `gelu` (erf) follows in one pass."""
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype))
    bias = layer.bias.detach().to(dtype)
    after: Any = ("gelu", [], "none") if gelu else ("none", [], "")

    def linear(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)
        return result

    return linear


@cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether `packed_linear` runs here and computes what the plain layer does."""
    with torch.random.fork_rng(devices=[]):  # asking must not move the caller's random numbers
        layer, x = nn.Linear(32, 32), torch.linspace(-2, 2, 96).reshape(3, 32)
    try:
        with torch.no_grad():
            error = packed_linear(layer, dtype, gelu=True)(x.to(dtype)) - F.gelu(layer(x))
    except Exception:  # refused by the processor, gone from torch, other arguments: nobody has asked for it
        return False
    return error.abs().max().item() < (0.05 if dtype == torch.bfloat16 else 1e-4)


def compute_attention(qkv: Tensor, lengths: list[int], heads: int) -> Tensor:
    """(B, T, 3 D) -> (B, T, D): multi-head self-attention inside each unit of the given lengths.

    In bfloat16 torch's fused kernel is slower on a processor than the plain products, and those are fastest on a few
    clips at a time, so that the scores stay in the core's cache.
    """
    mixed = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
    attend: Callable[..., Tensor]
    attend, clips = F.scaled_dot_product_attention, len(qkv)
    if qkv.dtype == torch.bfloat16:
        attend, clips = dot_product_attention, 2 * torch.get_num_threads()
    for some, result in zip(qkv.split(clips), mixed.split(clips), strict=True):
        for unit, part in zip(some.split(lengths, dim=1), result.split(lengths, dim=1), strict=True):
            q, k, v = unit.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
            part.unflatten(2, (heads, -1)).copy_(attend(q, k, v).transpose(1, 2))
    return mixed


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (B, heads, T, d) -> (B, heads, T, d): softmax(q k' / sqrt(d)) v."""
    q, k, v = torch.stack([q, k, v])  # one copy instead of three
    scores = (q @ k.transpose(2, 3)).float().mul_(q.shape[-1] ** -0.5)
    return scores.softmax(dim=-1).to(v.dtype) @ v  # torch's bfloat16 softmax is slower than both casts
