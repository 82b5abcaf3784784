"""From what the ranks returned to a finding about one case."""
