"""Relatives of the known mistakes: running maximum and denominators, sentinels, stored precision, heads, shapes."""

from __future__ import annotations

from attention_gate.verify.mutants.mutant import Mutant

_SCORES = '(scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))\n    top = scores.amax'
_TOP = "top = scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)"
_SAVED = "ctx.save_for_backward(q, own, out, lse)"
_DEFAULT = "scale = query.shape[-1] ** -0.5 if scale is None else scale"
_BRANCHES = "branches = tuple(zip(segment_lengths, dilation_rates, strict=True))"
_SUM = "grad_kv.unflatten(1, (kv.shape[1], -1)).sum(dim=2)"
_SELECTED = "row_selected = rows % segment % rate == offset\n    key_selected = keys % segment % rate == offset\n"
_SEGMENT = "seen = seen & ((rows // segment)[:, None] == keys // segment)"
_EACH = "each = kv.to(q.dtype).repeat_interleave(q.shape[1] // kv.shape[1], dim=1)"
_WEIGHTS = "weights = torch.exp(scale * (q @ k.mT) - lse[..., None]).masked_fill(~seen, 0.0)"

OTHER_VALUES = (
    Mutant(
        name="X01",
        mistake="no running maximum: exp of the bare scores",
        base="ring",
        changes=((_TOP, "top = torch.zeros_like(scores[..., :1])"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X02",
        mistake="the running maximum is taken over masked scores too",
        base="ring",
        changes=((_TOP, "top = (scale * (q @ k.mT)).amax(dim=-1, keepdim=True)"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X03",
        mistake="one maximum serves all rows of a head",
        base="ring",
        changes=((_TOP, _TOP.replace("dim=-1", "dim=(-2, -1)")),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X04",
        mistake="the running lse starts at -1e30, which rows that see nothing keep",
        base="ring",
        changes=(('lse = q.new_full(q.shape[:3], float("-inf"))\n', "lse = q.new_full(q.shape[:3], -1e30)\n"),),
        caught_by=("lse",),
    ),
    Mutant(
        name="X05",
        mistake="an lse of 0 is taken for a row that has seen nothing yet",
        base="ring",
        changes=(
            (
                "    top = torch.maximum(lse, block_lse)\n",
                '    lse = lse.masked_fill(lse == 0.0, float("-inf"))\n    top = torch.maximum(lse, block_lse)\n',
            ),
        ),
        caught_by=("forward",),
    ),
    Mutant(
        name="X06",
        mistake="a masked score is -1e4, which real scores can pass and empty rows share out",
        base="ring",
        changes=((_SCORES, _SCORES.replace('float("-inf")', "-1e4")),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X07",
        mistake="1e-6 is added to the denominator",
        base="ring",
        changes=(
            ("total.masked_fill(total == 0.0, 1.0)\n    return block_out", "(total + 1e-6)\n    return block_out"),
        ),
        caught_by=("forward",),
    ),
    Mutant(
        name="X08",
        mistake="the lse is kept for the backward pass in the input's dtype",
        base="ring",
        changes=((_SAVED, "ctx.save_for_backward(q, own, out, lse.to(query.dtype).to(lse.dtype))"),),
        caught_by=("precision",),
    ),
    Mutant(
        name="X09",
        mistake="gradients are rounded through bfloat16",
        base="ring",
        changes=(("heads_first(grad).to(dtype) for", "heads_first(grad).bfloat16().to(dtype) for"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X10",
        mistake="scores are computed in the input's dtype",
        base="ring",
        changes=((_SCORES, _SCORES.replace("(q @ k.mT)", "(q.to(kv.dtype) @ k.to(kv.dtype).mT).to(q.dtype)")),),
        caught_by=("precision",),
    ),
    Mutant(
        name="X11",
        mistake="the scale is applied to queries in the input's dtype",
        base="ring",
        changes=((_SCORES, _SCORES.replace("scale * (q @ k.mT)", "(scale * q.to(kv.dtype)).to(q.dtype) @ k.mT")),),
        caught_by=("precision",),
    ),
    Mutant(
        name="X12",
        mistake="query head h reads kv head h mod kv_heads",
        base="ring",
        changes=(
            (_EACH, "each = kv.to(q.dtype).repeat(1, q.shape[1] // kv.shape[1], 1, 1)"),
            (_SUM, "grad_kv.unflatten(1, (-1, kv.shape[1])).sum(dim=1)"),
        ),
        caught_by=("forward",),
    ),
    Mutant(
        name="X13",
        mistake="the gradient of kv head g sums over query heads that are g mod kv_heads",
        base="ring",
        changes=((_SUM, "grad_kv.unflatten(1, (-1, kv.shape[1])).sum(dim=1)"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X14",
        mistake="only the first query head of a group gives a gradient to its kv head",
        base="ring",
        changes=((_SUM, "grad_kv.unflatten(1, (kv.shape[1], -1))[:, :, 0]"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X15",
        mistake="the gradient of a kv head is the mean over its query heads",
        base="ring",
        changes=((_SUM, _SUM.replace("sum", "mean")),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X16",
        mistake="the residue is that of the position in the sequence, not in the segment",
        base="ring",
        changes=((_SELECTED, _SELECTED.replace(" % segment", "")),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X17",
        mistake="a short last segment is dropped",
        base="ring",
        changes=((_SEGMENT, _SEGMENT + "\n    seen = seen & (keys < max(call.length // segment, 1) * segment)"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X18",
        mistake="a short last segment is padded with zeros that take part",
        base="gather",
        changes=(
            (
                "seen = visible(call, branch, q.shape[1], rows, keys)",
                "pad = -call.length % min(branch[0], call.length or 1)\n"
                "        seen = visible(call, branch, q.shape[1], rows, torch.arange(call.length + pad))",
            ),
            (
                "attend_branch(q, k, v, seen, call.scale)",
                "attend_branch(\n            q, *(torch.nn.functional.pad(x, (0, 0, 0, pad)) for x in (k, v)), "
                "seen, call.scale\n        )",
            ),
        ),
        caught_by=("forward",),
    ),
    Mutant(
        name="X19",
        mistake="a rate above its segment's length is cut to that length",
        base="ring",
        changes=(("segment, rate = branch", "segment, rate = branch[0], min(branch)"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X20",
        mistake="the default scale takes the place of any other",
        base="ring",
        changes=((_DEFAULT, "scale = query.shape[-1] ** -0.5"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X21",
        mistake="scale=0.0 is taken for no scale: scale or default",
        base="ring",
        changes=((_DEFAULT, "scale = scale or query.shape[-1] ** -0.5"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X22",
        mistake="the sign of the scale is lost",
        base="ring",
        changes=((_DEFAULT, _DEFAULT + "\n    scale = abs(scale)"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X23",
        mistake="branches after the first are ignored",
        base="ring",
        changes=((_BRANCHES, _BRANCHES + "[:1]"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X24",
        mistake="a branch that is given twice counts once",
        base="ring",
        changes=((_BRANCHES, "branches = tuple(dict.fromkeys(zip(segment_lengths, dilation_rates, strict=True)))"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X25",
        mistake="a key that several branches see counts once: the union of their masks",
        base="gather",
        changes=(
            (
                "for branch in call.branches:\n        seen = visible(call, branch, q.shape[1], rows, keys)\n",
                "for _ in call.branches[:1]:\n"
                "        seen = sum(visible(call, b, q.shape[1], rows, keys) for b in call.branches) > 0\n",
            ),
        ),
        caught_by=("forward",),
    ),
    Mutant(
        name="X26",
        mistake="the causal mask is ignored in dilated branches",
        base="ring",
        changes=(("if call.is_causal:\n        seen", "if call.is_causal and rate == 1:\n        seen"),),
        caught_by=("forward",),
    ),
    Mutant(
        name="X27",
        mistake="the gradient of the keys lacks the scale",
        base="ring",
        changes=(("grad_k = scale * (grad_scores.mT @ q)", "grad_k = grad_scores.mT @ q"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X28",
        mistake="dS = P dP: the term D is missing",
        base="ring",
        changes=(("weights * (grad_out @ v.mT - delta)", "weights * (grad_out @ v.mT)"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X29",
        mistake="no gradient goes through the softmax denominators",
        base="gather",
        changes=(
            (
                "weights = torch.exp(scores - top)\n    total = weights.sum(dim=-1, keepdim=True)\n    branch_out",
                "weights = torch.exp(scores - top)\n    total = weights.sum(dim=-1, keepdim=True)"
                ".detach()\n    branch_out",
            ),
        ),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X30",
        mistake="the backward pass takes the default scale",
        base="ring",
        changes=(
            (
                "block_gradients(q, kv, grad_out, lse, delta, seen, call.scale)",
                "block_gradients(q, kv, grad_out, lse, delta, seen, head_dim**-0.5)",
            ),
        ),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X31",
        mistake="weights of rows that see nothing are infinity times 0 in the backward pass",
        base="ring",
        changes=((_WEIGHTS, "weights = torch.exp(scale * (q @ k.mT) - lse[..., None]) * seen"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X32",
        mistake="the gradients of keys and values are parted at value_dim",
        base="ring",
        changes=(("grad_kv[..., :head_dim], grad_kv[..., head_dim:]", "grad_kv.tensor_split(2, dim=-1)"),),
        caught_by=("gradients",),
    ),
    Mutant(
        name="X33",
        mistake="float64 is accumulated in float32",
        base="ring",
        changes=(("return torch.float64 if dtype == torch.float64 else torch.float32", "return torch.float32"),),
        caught_by=("forward", "gradients"),
    ),
    Mutant(
        name="X34",
        mistake="keys and values travel in bfloat16",
        base="ring",
        changes=(
            (
                "pass_on(kv, len(call.shard(source - 1)), call)\n            keys = call.shard(source)\n            # ",
                "pass_on(kv.bfloat16().to(kv.dtype), len(call.shard(source - 1)), call)\n"
                "            keys = call.shard(source)\n            # ",
            ),
        ),
        world=2,
        caught_by=("forward",),
    ),
    Mutant(
        name="X35",
        mistake="the branches' denominators are compared without a common maximum",
        base="gather",
        changes=(
            ("total * torch.exp(own - top) for", "total * torch.exp(own) for"),
            ("top + torch.log(total)", "torch.log(total)"),
        ),
        caught_by=("forward",),
    ),
    Mutant(
        name="X36",
        mistake="the gradients of keys and values travel in the input's dtype",
        base="ring",
        changes=(("grad_kv = torch.zeros_like(kv, dtype=q.dtype)", "grad_kv = torch.zeros_like(kv)"),),
        world=2,
        caught_by=("precision",),
    ),
    Mutant(
        name="X37",
        mistake="of more than 64 keys of a block, those after the last whole tile of 64 are left out",
        base="ring",
        changes=(
            (_EACH, _EACH + "\n    each = each[:, :, : max(64, each.shape[2] // 64 * 64)]"),
            (
                "    k, v = split(kv, q)\n    if not",
                "    k, v = split(kv, q)\n    seen = seen[:, :, : k.shape[2]]\n    if not",
            ),
            (
                "    k, v = split(kv, q)\n    weights",
                "    rest = kv.shape[2]\n    k, v = split(kv, q)\n    seen = seen[:, :, : k.shape[2]]\n    weights",
            ),
            (
                "grad_kv = torch.cat((grad_k, grad_v), dim=-1)",
                "grad_kv = torch.cat((grad_k, grad_v), dim=-1)\n    "
                "grad_kv = torch.nn.functional.pad(grad_kv, (0, 0, 0, rest - k.shape[2]))",
            ),
        ),
        caught_by=("shapes",),
    ),
    Mutant(
        name="X38",
        mistake="of a head_dim above 16 only whole tiles of 16 enter the scores",
        base="ring",
        changes=(
            (
                _SCORES,
                _SCORES.replace(
                    "(q @ k.mT)",
                    "(q[..., : max(16, q.shape[-1] // 16 * 16)] @ k[..., : max(16, q.shape[-1] // 16 * 16)].mT)",
                ),
            ),
        ),
        caught_by=("shapes",),
    ),
)
