"""Correct programs of ten designs, each written from the contract alone, by someone who had not seen the gate.

They stay as they were written; what each does not take is said at its top. One line was added: two_way_ring sent
gradients that are not contiguous where a rank owns a single row, which gloo refuses; the gate found it.
"""
