"""Correct programs of ten designs, each written from the contract alone, by someone who had not seen the gate.

They stay as they were written. What each does not take is said at its top.
"""
