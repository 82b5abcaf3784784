"""One example: sizes, options, a seed, and the values that follow from them."""
