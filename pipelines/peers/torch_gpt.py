"""What a PyTorch user would write: a GPT over packed colors.

Pre-norm layers with fused attention, one embedding and one softmax over all
colors, learned positions.
"""

import time
from typing import Any

import numpy as np
import timing
import torch
from torch import nn
from torch.nn import functional

COLORS = 1 << 13


class Block(nn.Module):
    """One pre-norm layer with fused causal attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Any) -> Any:
        """Map float `(B, T, W)` to the same."""
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in self.project(self.attention_norm(x)).chunk(3, -1)
        )
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + self.output(attended)
        return x + self.feedforward(x)


class PixelGPT(nn.Module):
    """Returns the nats of each pixel."""

    def __init__(
        self, num_layers: int, num_heads: int, width: int, length: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(COLORS + 1, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.blocks = nn.Sequential(
            *(Block(width, num_heads) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, COLORS)

    def forward(self, token_ids: Any) -> Any:
        """Map int64 `(B, T)` to float `(B, T)`."""
        before = functional.pad(token_ids[:, :-1], (1, 0), value=COLORS)
        x = self.norm(self.blocks(self.embed(before) + self.positions))
        return functional.cross_entropy(
            self.head(x).flatten(0, 1), token_ids.flatten(), reduction="none"
        ).view(token_ids.shape)


def train(
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    size: int,
    batch_size: int,
    compile: bool,
    seconds: float,
) -> dict:
    """Train on noise; pixels per second."""
    step = _training_step(
        PixelGPT(num_layers, num_heads, hidden_dim, size * size), compile
    )
    token_ids = torch.randint(0, COLORS, (batch_size, size * size))
    return timing.rates(
        lambda: step(token_ids, 1e-3), token_ids.numel(), seconds
    )


def learn(
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    size: int,
    batch_size: int,
    compile: bool,
    tokens: str,
    minutes: float,
    learning_rate: float,
) -> dict:
    """Train on tokens for some minutes; validation against time.

    The clock runs while it compiles and trains, not while it validates.
    """
    with np.load(tokens) as arrays:
        pictures = torch.from_numpy(arrays["train"].astype(np.int64))
        validation = torch.from_numpy(arrays["validation"].astype(np.int64))
    model = PixelGPT(num_layers, num_heads, hidden_dim, size * size)
    step = _training_step(model, compile)
    generator = np.random.default_rng(0)
    clock, due = 0.0, 0.25
    curve: list[list[float]] = []
    while clock < 60 * minutes:
        begin = time.perf_counter()
        chosen = generator.integers(0, len(pictures), batch_size)
        batch = pictures[torch.from_numpy(chosen)]
        flips = torch.from_numpy(generator.random(batch_size) < 0.5)
        flipped = batch.view(-1, size, size).flip(2).flatten(1)
        batch = torch.where(flips[:, None], flipped, batch)
        share = clock / (60 * minutes)
        warm = min(1.0, share / 0.02 + 0.01)
        step(batch, learning_rate * warm * max(0.02, 1 - share))
        clock += time.perf_counter() - begin
        if clock >= due * 60 * minutes:
            due += 0.25
            curve.append([clock, _validate(model, validation)])
    if not curve or curve[-1][0] < clock:
        curve.append([clock, _validate(model, validation)])
    return {"curve": curve}


def _training_step(model: PixelGPT, compile: bool) -> Any:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=0.05, fused=True
    )
    forward = torch.compile(model) if compile else model

    def step(token_ids: Any, learning_rate: float) -> None:
        optimizer.param_groups[0]["lr"] = learning_rate
        forward(token_ids).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _validate(model: PixelGPT, token_ids: Any) -> float:
    """Return the mean bits per pixel."""
    with torch.no_grad():
        nats = [model(batch).mean(1) for batch in token_ids.split(4)]
    return float(torch.cat(nats).mean() / np.log(2))


if __name__ == "__main__":
    timing.main(train, learn)
