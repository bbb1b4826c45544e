"""One pre-training step of ViT-base (80 x 608, 70 % masked, batch 8) beside the same public maths done plainly.

    python benchmarks/pretrain_speed.py            # some minutes; --quick for three rounds

The plain step is what a researcher who follows the publications writes with torch.nn in float32: attention with an
explicit softmax (as in the timm release that the public code pins), the target encoder under no_grad, tokens shuffled
back into the grid for the predictor, torch's AdamW as it comes, clip_grad_norm_, and a loop over parameters for the
target's moving average. Both start from the same weights and get the same masks; their losses are compared first.

Both take turns in one process, round after round, so that other programs on the machine disturb both alike: the figures
are the median and the best turn, a ratio is the median over rounds of (plain / this one in the same round). On a busy
machine `--threads 1` counts the processor's time, not the clock's.
"""

import argparse
import os
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.export.engine_selection import speed_ratio, time_engines
from rales.jobs.benchmark import find_bf16_problem
from rales.models import M2D, ViT
from rales.training.optim import make_adamw

BATCH, PATCHES, RATIO, LR, DECAY = 8, 190, 0.7, 1e-4, 0.99995
PLAIN, FLOAT32, BF16 = "plain float32", "rales, float32", "rales, bf16"
Turn = Callable[[], float]


class PlainBlock(nn.Module):
    """(B, T, D) -> (B, T, D): pre-norm attention with an explicit softmax, then an MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class Plain(nn.Module):
    """(B, 1, 80, 608), (B, 190) -> scalar loss of one masked step."""

    def __init__(self, dim: int = 768, decoder_dim: int = 512, depth: int = 12) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, dim, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, PATCHES + 1, dim), requires_grad=False)
        self.blocks = nn.ModuleList(PlainBlock(dim, 12) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.target_blocks = nn.ModuleList(PlainBlock(dim, 12) for _ in range(depth))
        self.target_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, PATCHES + 1, decoder_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(PlainBlock(decoder_dim, 16) for _ in range(8))
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_dim, dim)
        for part in (self.target_blocks, self.target_norm):
            part.requires_grad_(False)

    def forward(self, logmel: Tensor, noise: Tensor) -> Tensor:
        x = self.patch_embed(logmel).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        batch, _, dim = x.shape
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        keep = int(PATCHES * (1 - RATIO))
        visible = torch.gather(x, 1, shuffle[:, :keep, None].repeat(1, 1, dim))
        masked = torch.gather(x, 1, shuffle[:, keep:, None].repeat(1, 1, dim))
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)

        z = torch.cat([cls, visible], dim=1)
        for block in self.blocks:
            z = block(z)
        z = self.norm(z)

        y = self.decoder_embed(z)
        mask_tokens = self.mask_token.repeat(batch, PATCHES - keep, 1)
        grid = torch.cat([y[:, 1:], mask_tokens], dim=1)
        grid = torch.gather(grid, 1, restore[:, :, None].repeat(1, 1, y.shape[2]))
        y = torch.cat([y[:, :1], grid], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            y = block(y)
        y = self.decoder_pred(self.decoder_norm(y))[:, 1:]
        prediction = torch.gather(y, 1, shuffle[:, :, None].repeat(1, 1, dim))[:, keep:]

        with torch.no_grad():
            t = torch.cat([cls, masked], dim=1)
            for block in self.target_blocks:
                t = block(t)
            t = self.target_norm(t)[:, 1:]
            t = (t - t.mean(dim=-1, keepdim=True)) / (t.var(dim=-1, keepdim=True) + 1e-6) ** 0.5
        loss = 2 - 2 * (F.normalize(t, dim=-1) * F.normalize(prediction, dim=-1)).sum(dim=-1)
        return loss.mean()

    def update_target(self) -> None:
        pairs = [(self.blocks, self.target_blocks), (self.norm, self.target_norm)]
        for online, target in pairs:
            for new, old in zip(online.parameters(), target.parameters(), strict=True):
                old.data = old.data * DECAY + (1 - DECAY) * new.data


def plain_name(name: str) -> str:
    """Name in the reference's state dict -> name in `Plain`."""
    for ours, plain in ((".attn.", "."), (".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.2."), ("_embed.proj", "_embed")):
        name = name.replace(ours, plain)
    return name


def plain_step(model: M2D, logmel: Tensor, noise: Tensor) -> Turn:
    """-> a function that does one plain step and says its loss; weights start as the model's."""
    plain = Plain()
    plain.load_state_dict({plain_name(n): v.clone() for n, v in model.state_dict().items() if n != "norm_stats"})
    decays = [p for n, p in plain.named_parameters() if p.requires_grad and p.ndim > 1]
    others = [p for n, p in plain.named_parameters() if p.requires_grad and p.ndim == 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decays, "weight_decay": 0.05}]
    optimiser = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95))

    def step() -> float:
        loss = plain(logmel, noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 3.0)
        optimiser.step()
        plain.update_target()
        return float(loss.detach())

    return step


def rales_step(model: M2D, logmel: Tensor, noise: Tensor, *, bf16: bool) -> Turn:
    """-> a function that does one step as the pre-training loop does and says its loss."""
    optimiser = make_adamw(model.named_parameters(), lr=LR, weight_decay=0.05, betas=(0.9, 0.95))

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(logmel, noise).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimiser.step()
        optimiser.zero_grad()
        model.update_target(DECAY)
        return float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of eleven")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, logmel, noise = M2D(ViT(), mask_ratio=RATIO), torch.randn(BATCH, 1, 80, 608), torch.rand(BATCH, PATCHES)
    turns = {PLAIN: plain_step(model, logmel, noise), FLOAT32: rales_step(model, logmel, noise, bf16=False)}
    print(f"{options.threads} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start")
    losses = {name: [turn(), turn()] for name, turn in turns.items()}
    print("losses of the first two steps:", {name: [round(loss, 6) for loss in two] for name, two in losses.items()})
    assert all(abs(a - b) < 1e-3 for a, b in zip(losses[PLAIN], losses[FLOAT32], strict=True)), "not the same maths"
    if problem := find_bf16_problem():
        print(f"{BF16}: left out, {problem}")
    else:
        turns[BF16] = rales_step(M2D(ViT(), mask_ratio=RATIO), logmel, noise, bf16=True)
    seconds = time_engines(turns, 3 if options.quick else 11)
    print(f"\nPre-training step of ViT-base, batch {BATCH}, ms per clip of 6.08 s")
    print(f"  {'':15s} {'median':>8s} {'best':>8s}   times as fast as plain (median of rounds; best to best)")
    for name, values in seconds.items():
        paired = speed_ratio(values, seconds[PLAIN])
        middle_ms, best_ms = (1000 * value / BATCH for value in (statistics.median(values), min(values)))
        print(f"  {name:15s} {middle_ms:8.1f} {best_ms:8.1f}   {paired:5.2f} {min(seconds[PLAIN]) / min(values):5.2f}")


if __name__ == "__main__":
    main()
