"""Is never done importing."""

import time

time.sleep(1000)
