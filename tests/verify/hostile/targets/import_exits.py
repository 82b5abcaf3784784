"""Ends the process that imports it, with the exit status of success."""

import os

os._exit(0)
