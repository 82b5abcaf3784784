"""From what the ranks returned to a judgement of one case."""
