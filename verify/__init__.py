"""The gate: judges an implementation of distributed attention against the float64 oracle.

Its folders follow the way of one example, and each imports only from those before it:

    target    what is judged, and what it says of itself
    case      one example: sizes, options, the values of its tensors
    rank      what runs inside a rank
    world     real processes that the ranks run in
    network   the simulated transport
    judge     from what the ranks returned to a finding
    checks    each promise of the contract
    explain   which known mistake fits a failure
    run       all checks, one after the other, and the verdict
    report    the verdict as text, files and pictures

``compare``, ``mutants`` and ``commands`` use them. The public names are in ``attention_gate``.
"""
