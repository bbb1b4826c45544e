"""Low-rank updates of keys and values beside frozen weights (LoRA, Hu et al. 2022; on ICBHI LoRA-RSC, ICASSP 2025)."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """(…, in) -> (…, out): a frozen linear layer, and to each of its last parts the product of two thin matrices.

    Parameters
    ----------
    plain
        The layer, whose weights stay.
    width
        Features between the two matrices.
    updates
        How many parts, as wide as the input each, get an update: 2 of a layer that makes queries, keys and values.
    """

    def __init__(self, plain: nn.Linear, width: int, updates: int) -> None:
        super().__init__()
        dim = plain.in_features
        self.plain = plain.requires_grad_(False)
        self.down = nn.ModuleList(nn.Linear(dim, width, bias=False) for _ in range(updates))
        self.up = nn.ModuleList(nn.Linear(width, dim, bias=False) for _ in range(updates))
        for down, up in self.list_pairs():  # one of them at zero, so that nothing changes at first
            nn.init.zeros_(down.get_parameter("weight"))
            nn.init.kaiming_uniform_(up.get_parameter("weight"), a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """(out, in), updates included: what prediction packs."""
        pairs = [(down.get_parameter("weight"), up.get_parameter("weight")) for down, up in self.list_pairs()]
        return add_products(self.plain.weight, pairs)

    @property
    def bias(self) -> Tensor:
        """(out,), that of the layer."""
        return self.plain.bias

    def list_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """-> the two matrices of each part."""
        return list(zip(self.down, self.up, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        before: Tensor = self.plain(x)
        changes = torch.cat([up(down(x)) for down, up in self.list_pairs()], dim=-1)
        kept = before.shape[-1] - changes.shape[-1]
        return torch.cat([before[..., :kept], before[..., kept:] + changes], dim=-1)


def add_products(weight: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(out, in) and for each of its last parts a (width, in) and a (part, width) -> (out, in) with their products."""
    changes = torch.cat([up @ down for down, up in pairs])
    kept = len(weight) - len(changes)
    return torch.cat([weight[:kept], weight[kept:] + changes])


def merge_low_rank_updates(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file -> the same, and of every `LowRankLinear` also weight and bias of the plain layer that it
    amounts to; not of one whose matrices do not fit, so that whoever reads the file says what it misses."""
    merged = dict(tensors)
    for stem in [name.removesuffix(".plain.weight") for name in tensors if name.endswith(".plain.weight")]:
        names = [(f"{stem}.down.{part}.weight", f"{stem}.up.{part}.weight") for part in range(2)]
        pairs = [(tensors[down], tensors[up]) for down, up in names if down in tensors and up in tensors]
        try:
            merged[f"{stem}.weight"] = add_products(tensors[f"{stem}.plain.weight"], pairs)
        except (RuntimeError, IndexError):
            continue
        if f"{stem}.plain.bias" in tensors:
            merged[f"{stem}.bias"] = tensors[f"{stem}.plain.bias"]
    return merged


def add_low_rank_updates(encoder: nn.Module, width: int) -> None:
    """Encoder with `blocks` whose `attn` makes keys and values by `qkv`, or by `k_proj` and `v_proj` -> the same, of
    which only updates of these, of so many features, learn; 0 leaves it as it is. It is left in place."""
    if not width:
        return
    encoder.requires_grad_(False)
    blocks = encoder.get_submodule("blocks")
    for block in blocks.children():
        attention = block.get_submodule("attn")
        for name, updates in (("qkv", 2), ("k_proj", 1), ("v_proj", 1)):
            plain = getattr(attention, name, None)
            if isinstance(plain, nn.Linear):
                setattr(attention, name, LowRankLinear(plain, width, updates))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Network -> how many parameters it has, and how many of them learn."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"all": sum(size for size, _ in sizes), "trained": sum(size for size, learns in sizes if learns)}
