"""A target that is nothing to call."""

attend = 3
