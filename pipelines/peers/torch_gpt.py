"""A GPT over packed colors, as a PyTorch user would write it.

Pre-norm layers with fused attention, learned positions; one embedding and one
softmax over all colors, or, with `is_split`, one for each channel of HSV 544,
given the channels before it: 64 logits instead of 8,192.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import timing
import torch
from torch import nn
from torch.nn import functional

COLORS = 1 << 13
# Lowest bit and levels of value, saturation and hue in a token.
CHANNELS = ((9, 16), (5, 16), (0, 32))


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


class SplitEmbedding(nn.Module):
    """Adds up a row for each channel of a color."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(levels + 1, width) for _, levels in CHANNELS
        )

    def forward(self, token_ids: Any) -> Any:
        """Map int64 `(B, T)`, where `COLORS` is none, to `(B, T, W)`."""
        is_none = token_ids == COLORS
        rows = [
            table(torch.where(is_none, levels, (token_ids >> low) % levels))
            for table, (low, levels) in zip(self.tables, CHANNELS, strict=True)
        ]
        return rows[0] + rows[1] + rows[2]


class SplitHead(nn.Module):
    """Predicts each channel of a color, given those before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.given = nn.ModuleList(
            nn.Embedding(levels, width) for _, levels in CHANNELS[:-1]
        )
        self.logits = nn.ModuleList(
            nn.Linear(width, levels) for _, levels in CHANNELS
        )

    def forward(self, x: Any, token_ids: Any) -> Any:
        """Return the nats of each color, float `(B, T)`."""
        nats = torch.zeros(token_ids.shape, device=x.device)
        for i, (low, levels) in enumerate(CHANNELS):
            channel = (token_ids >> low) % levels
            logits = self.logits[i](functional.gelu(x))
            nats = nats + functional.cross_entropy(
                logits.flatten(0, 1), channel.flatten(), reduction="none"
            ).view(token_ids.shape)
            if i < len(self.given):
                x = x + self.given[i](channel)
        return nats


class PixelGPT(nn.Module):
    """Returns the nats of each pixel."""

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        width: int,
        length: int,
        is_split: bool = False,
    ) -> None:
        super().__init__()
        self.is_split = is_split
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.blocks = nn.Sequential(
            *(Block(width, num_heads) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(width)
        if is_split:
            self.embed: nn.Module = SplitEmbedding(width)
            self.head: nn.Module = SplitHead(width)
        else:
            self.embed = nn.Embedding(COLORS + 1, width)
            self.head = nn.Linear(width, COLORS)

    def forward(self, token_ids: Any) -> Any:
        """Map int64 `(B, T)` to float `(B, T)`."""
        before = functional.pad(token_ids[:, :-1], (1, 0), value=COLORS)
        x = self.norm(self.blocks(self.embed(before) + self.positions))
        if self.is_split:
            return self.head(x, token_ids)
        return functional.cross_entropy(
            self.head(x).flatten(0, 1), token_ids.flatten(), reduction="none"
        ).view(token_ids.shape)


def train(
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    size: int,
    batch_size: int,
    is_compiled: bool,
    is_split: bool,
    dtype: str,
    seconds: float,
) -> None:
    """Train on noise; pixels per second."""
    torch.manual_seed(0)
    model = PixelGPT(num_layers, num_heads, hidden_dim, size * size, is_split)
    step = training_step(model, is_compiled, dtype)
    token_ids = torch.randint(0, COLORS, (batch_size, size * size))
    timing.rates(lambda: step(token_ids, 1e-3), token_ids.numel(), seconds)


def learn(
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    size: int,
    batch_size: int,
    is_compiled: bool,
    is_split: bool,
    dtype: str,
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
    torch.manual_seed(0)
    model = PixelGPT(num_layers, num_heads, hidden_dim, size * size, is_split)
    step = training_step(model, is_compiled, dtype)
    batches = _shuffled(pictures, batch_size, size)
    clock, due, steps = 0.0, 0.25, 0
    curve: list[list[float]] = []
    while clock < 60 * minutes:
        begin = time.perf_counter()
        share = clock / (60 * minutes)
        # Warm-up and cosine, as this program has them.
        warm = min(1, max(share / 0.05, (steps + 1) / 100), (steps + 1) / 10)
        decay = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * share))
        step(next(batches), learning_rate * warm * decay)
        steps += 1
        clock += time.perf_counter() - begin
        if clock >= due * 60 * minutes:
            due += 0.25
            curve.append([clock, _validate(model, validation)])
    if not curve or curve[-1][0] < clock:
        curve.append([clock, _validate(model, validation)])
    parameters = sum(p.numel() for p in model.parameters())
    return {"curve": curve, "parameters": parameters, "steps": steps}


def _shuffled(pictures: Any, batch_size: int, size: int) -> Iterator[Any]:
    """Yield batches of epochs without end, half of the pictures mirrored."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(pictures), generator=generator)
        for chosen in order.split(batch_size):
            batch = pictures[chosen]
            is_flipped = torch.rand(len(chosen), generator=generator) < 0.5
            flipped = batch.view(-1, size, size).flip(2).flatten(1)
            yield torch.where(is_flipped[:, None], flipped, batch)


def training_step(model: PixelGPT, is_compiled: bool, dtype: str) -> Any:
    """Return a function of tokens and learning rate that returns the loss."""
    device = model.positions.device.type
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=0.05, fused=True
    )
    forward = torch.compile(model) if is_compiled else model

    def step(token_ids: Any, learning_rate: float) -> Any:
        optimizer.param_groups[0]["lr"] = learning_rate
        with torch.autocast(device, torch.bfloat16, dtype == "bfloat16"):
            loss = forward(token_ids).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _validate(model: PixelGPT, token_ids: Any) -> float:
    """Return the mean bits per pixel."""
    with torch.no_grad():
        nats = [model(batch).mean(1) for batch in token_ids.split(4)]
    return float(torch.cat(nats).mean() / np.log(2))


if __name__ == "__main__":
    timing.main(train, learn)
