"""Each attention against loops over places, written as its paper's sum."""

import pytest
import torch

from rales.models.attention import AttentionConv, ChannelAttention, NonLocal, SpatialAttention, channel_then_space


@torch.inference_mode()
def test_nonlocal_by_loops() -> None:
    torch.manual_seed(0)
    block, x = NonLocal(4), torch.randn(1, 4, 2, 3)
    theta, phi, g = (branch(x)[0].flatten(1) for branch in (block.theta, block.phi, block.g))
    y = torch.zeros(2, 6)
    for i in range(6):
        share = torch.stack([theta[:, i] @ phi[:, j] for j in range(6)]).softmax(dim=0)
        y[:, i] = sum(share[j] * g[:, j] for j in range(6))
    assert torch.allclose(block(x), x + block.out(y.view(1, 2, 2, 3)), atol=1e-6)


@torch.inference_mode()
def test_the_published_nonlocal_has_one_distribution_and_turns_its_picture() -> None:
    torch.manual_seed(0)
    block, x = NonLocal(4, softmax="global", transpose=True), torch.randn(2, 4, 3, 3)
    for clip in range(2):
        theta, phi, g = (branch(x[clip : clip + 1])[0].flatten(1) for branch in (block.theta, block.phi, block.g))
        pairs = torch.stack([phi[:, i] @ theta[:, j] for i in range(9) for j in range(9)]).softmax(dim=0).view(9, 9)
        y = torch.stack([sum(pairs[i, j] * g[:, j] for j in range(9)) for i in range(9)], dim=1)
        wanted = x[clip] + block.out(y.view(1, 2, 3, 3))[0].transpose(1, 2)
        assert torch.allclose(block(x)[clip], wanted, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("layout", ["transposed", "raw"])
def test_attention_convolution_by_loops(layout: str) -> None:
    torch.manual_seed(0)
    side, places = 3, 9
    block = AttentionConv(5, 8, side=side, keys=4, values=4, heads=2, layout=layout)  # type: ignore[arg-type]
    x = torch.randn(1, 5, side, side)
    q, k, v = block.qkv(x)[0].flatten(1).split([4, 4, 4])
    heads = []
    for head in range(2):
        rows = slice(2 * head, 2 * head + 2)
        mixed = torch.zeros(places, 2)
        for i in range(places):
            query = q[rows, i] * 2**-0.5
            logits = []
            for j in range(places):
                down, right = j // side - i // side, j % side - i % side
                position = block.relative_rows[down + side - 1] + block.relative_columns[right + side - 1]
                logits.append(query @ (k[rows, j] + position))
            mixed[i] = v[rows] @ torch.stack(logits).softmax(dim=0)
        heads.append(mixed.T.reshape(2, side, side) if layout == "transposed" else mixed.reshape(2, side, side))
    wanted = torch.cat([block.conv(x), block.project(torch.cat(heads)[None])], dim=1)
    assert block(x).shape == (1, 8, side, side)
    assert torch.allclose(block(x), wanted, atol=1e-5)


def test_attention_convolution_size_and_wrong_picture() -> None:
    block = AttentionConv()
    assert sum(p.numel() for p in block.parameters()) == 60_568
    assert tuple(block.relative_rows.shape) == tuple(block.relative_columns.shape) == (27, 10)
    with pytest.raises(ValueError, match=r"13 x 14 reached.*expected 14 x 14"):
        block(torch.zeros(1, 64, 13, 14))


@torch.inference_mode()
def test_channel_and_spatial_attention_by_hand() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 4, 5)
    channel = ChannelAttention(32)
    scale = sum(channel.fc2(torch.relu(channel.fc1(p))) for p in (x.mean(dim=(2, 3)), x.amax(dim=(2, 3))))
    assert torch.allclose(channel(x), x * torch.sigmoid(scale)[:, :, None, None], atol=1e-6)
    space = SpatialAttention()
    maps = torch.stack([x.mean(dim=1), x.max(dim=1).values], dim=1)
    assert torch.allclose(space(x), x * torch.sigmoid(space.conv(maps)), atol=1e-6)
    assert [type(part).__name__ for part in channel_then_space(32)] == ["ChannelAttention", "SpatialAttention"]
