"""What holds for every test: the same examples in every run, and one thread, as more than cores slow gloo down."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from hypothesis import settings

# Whatever the machine says of itself: Hypothesis has another default where it finds that it runs in CI.
settings.register_profile("house", derandomize=True, database=None, deadline=None)
settings.load_profile("house")
