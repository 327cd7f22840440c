"""Hugging Face ImageGPT with its cache."""

import timing
import torch
import transformers


def sample(
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    size: int,
    batch_size: int,
    dtype: str,
    is_compiled: bool,
    seconds: float,
) -> None:
    """Generate behind the first half of pictures; pixels per second.

    Where the half takes longer than the seconds, its first pixels, which are
    the cheaper ones, stand for all.

    Args:
        num_layers: Sizes of the model.
        num_heads: Sizes of the model.
        hidden_dim: Sizes of the model.
        size: Height and width of a picture.
        batch_size: Pictures at once.
        dtype: Of the weights: `"float32"` or `"bfloat16"`.
        is_compiled: Whether the cache is static and the step is compiled, as
            the documentation of `generate` proposes for speed.
        seconds: For one round.
    """
    colors, length, half = 1 << 13, size * size, size * size // 2
    torch.manual_seed(0)
    model = transformers.ImageGPTForCausalImageModeling(
        transformers.ImageGPTConfig(
            vocab_size=colors + 1,
            n_positions=length,
            n_embd=hidden_dim,
            n_layer=num_layers,
            n_head=num_heads,
        )
    )
    model = model.to(getattr(torch, dtype)).eval()
    given = torch.randint(0, colors, (batch_size, half))

    def work(steps: int) -> None:
        with torch.no_grad():
            model.generate(
                given,
                max_new_tokens=steps,
                min_new_tokens=steps,
                do_sample=True,
                top_k=0,
                pad_token_id=colors,
                cache_implementation="static" if is_compiled else None,
                eos_token_id=None,
            )

    # Its last position is taken by the start token.
    timing.extrapolated_rates(work, length - half - 1, batch_size, seconds)


if __name__ == "__main__":
    timing.main(sample)
