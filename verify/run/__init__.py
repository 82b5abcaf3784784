"""All checks of a target, one after the other, and the verdict."""
