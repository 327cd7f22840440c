"""What the arguments `bit_widths` and `color_space` may be."""

COLOR_SPACES = ("hsv", "rgb")

BitWidths = tuple[int, int, int]


def check_bit_widths(bit_widths: BitWidths) -> BitWidths:
    """Return `bit_widths` as a tuple of three ints.

    Raises:
        ValueError: If there are not three widths, each in `[0, 8]`, whose sum
            lies in `[1, 24]`.
    """
    widths = tuple(bit_widths)
    if (
        len(widths) != 3
        or any(not isinstance(b, int) or not 0 <= b <= 8 for b in widths)
        or not 1 <= sum(widths) <= 24
    ):
        raise ValueError(
            "bit_widths must be three integers from 0 to 8 with a sum from 1 "
            f"to 24. Received: bit_widths={bit_widths!r}"
        )
    return widths


def check_color_space(color_space: str) -> str:
    """Return `color_space`, or raise ValueError if it is not a known one."""
    if color_space not in COLOR_SPACES:
        raise ValueError(
            f"color_space must be one of {', '.join(COLOR_SPACES)}. "
            f"Received: color_space={color_space!r}"
        )
    return color_space
