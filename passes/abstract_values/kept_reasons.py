"""Reasons to keep a masked channel: the code of each, its meaning, and the advice on it.

Codes never change their meaning; a new reason gets a new one. The first digit says what keeps the channel: 1, an
operator that handles channels one by one; 2, one that computes over several of them; 3, a constant with nowhere to go;
4, something that the compiler does not know; 5, the caller; 6, cost; 7, speed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """One reason: `words` follow the operator's name, `meaning` explains them, and `action` is what to try."""

    code: str
    words: str
    meaning: str
    action: str


_ADAPTERS = (
    "Compile with `--adapters always`, which restores the constants at this operator's input. It may be slower than "
    "computing the channels."
)

COMBINED = Reason(
    "K101",
    "adds or combines channels one by one, and another operand is live there",
    "An elementwise operator, such as the sum of a residual connection, combines two branches with different masks. "
    "Where one branch is masked and the other is not, the result is live, and this operator needs both.",
    "Give both branches the same mask, or mask the other branch as well. " + _ADAPTERS,
)
EACH_BY_ITSELF = Reason(
    "K102",
    "handles each channel by itself, and its output keeps them",
    "The operator has as many channels at its input as at its output: pooling, resizing, padding, transposing. What "
    "follows needs the channels of the output.",
    "Look at what reads this operator's output: what allows removing channels there does so here. " + _ADAPTERS,
)
ANOTHER_AXIS = Reason(
    "K103",
    "works along another axis, and its output keeps them",
    "The operator normalises or accumulates along another axis than the masked one, so a masked channel may become "
    "another constant, and what follows needs it.",
    "Mask after this operator instead of before it. " + _ADAPTERS,
)
BOTH_COMPUTED = Reason(
    "K201",
    "sums over channels of several computed operands",
    "A product of two computed tensors, as in attention, sums over the channel. The channel can be removed only "
    "where it is zero in one of them, and then from both.",
    "Mask the same channels of both operands (in attention: of queries and keys).",
)
READ = Reason(
    "K202",
    "reads it, and cannot absorb the constant",
    "The operator depends on the channel, and has no weights or bias that could take over a constant that is not zero.",
    "Make the channel zero instead of another constant: put the mask after the activation or normalization. "
    + _ADAPTERS,
)
REPRESENTATIVE = Reason(
    "K203",
    "normalises it, and one masked channel represents all of them after it",
    "After a normalization over the channels, masked channels are not constant, but all of them are equal up to "
    "scale and shift. One of them is computed in place of all.",
    "Nothing: this is the fewest channels that give the same outputs.",
)
NORMALISED = Reason(
    "K204",
    "normalises it, and all its channels are read after it",
    "A normalization over the channels mixes all of them, and what follows reads the masked ones too.",
    "Put the mask after the normalization.",
)
NEIGHBOURS = Reason(
    "K205",
    "divides by its neighbours along the channels",
    "Local response normalization computes each channel from those beside it, so they cannot move together.",
    "Mask after this operator instead of before it.",
)
SCALE_OF_ALL = Reason(
    "K206",
    "computes its scale from all channels but zeros",
    "Dynamic quantization takes its scale from the largest and smallest element, and a constant that is not zero may "
    "be it.",
    "Make the channel zero instead of another constant, or quantize statically.",
)
GROUPS = Reason(
    "K207",
    "takes equal numbers of channels in every group, and those it writes",
    "A grouped convolution or normalization has groups of one size. Where a mask leaves more channels in one group "
    "than in another, the smaller ones are filled up with masked channels.",
    "Mask entire groups, or equally many channels in each. " + _ADAPTERS,
)
REGROUPED = Reason(
    "K208",
    "regroups the elements of several axes",
    "A Reshape, or an operator between space and depth, makes blocks of the axis, and all blocks must have one size.",
    "Mask entire blocks of the split axis (such as heads), or the same positions in each block.",
)
HEADS = Reason(
    "K209",
    "needs heads of one size, and groups of one size",
    "Fused attention has as many channels in each head, and as many heads of queries for each of keys; a rotary "
    "embedding turns channels in pairs, the same in all heads. Where a mask leaves fewer of some, masked ones fill up. "
    "Heads whose keys and values the caller gets, as a cache with as many heads as it declares, stay as well.",
    "Mask entire heads, equally many in each group, and equally many channels of each.",
)
RECURRENT = Reason(
    "K210",
    "computes its state from all units of the state before",
    "A recurrent layer reads every unit of its state at the next step. A mask after the layer hides a unit from what "
    "follows, and not from the layer itself.",
    "Mask the state as well: let the recurrent weights of the unit be zero.",
)
FROM_ALL = Reason(
    "K211",
    "computes each of its channels from all, and all at once",
    "A normalization, a softmax or a cumulative sum along the channels needs all of them, for their mean and variance "
    "or their sum. A mask after the operator hides a channel from what follows, and not from the operator itself.",
    "Mask before the operator, in training as well, as that is another function.",
)
PADDED_BORDER = Reason(
    "K301",
    "needs a constant channel at its padded border",
    "After a bias or BatchNorm a masked channel is a constant that is not zero, and a padded convolution sees it "
    "inside the image and zeros at the border. One channel is kept for all constant ones, so that the border is right.",
    "Put the mask after the bias, normalization and activation, so that the channel is zero.",
)
NO_BIAS = Reason(
    "K302",
    "has no bias to absorb a constant",
    "A constant that is not zero must be added to something, and this operator has no bias that it fits into.",
    "Make the channel zero: put the mask after the bias and activation. " + _ADAPTERS,
)
NO_RULE = Reason(
    "K401",
    "has no rule that allows removing channels",
    "The compiler does not know this operator, so it is left unchanged and gets all channels.",
    "Give the operator a rule (docs/custom-operators.md), or put the mask after it.",
)
SUBGRAPH = Reason(
    "K402",
    "reads it inside a subgraph",
    "The branch of an If, or the body of a Loop or Scan, reads the tensor from the graph around it, with all channels.",
    "Choose the branch, or unroll the loop, before exporting.",
)
UNKNOWN_SHAPE = Reason(
    "K403",
    "multiplies a tensor of unknown shape",
    "A mask multiplies a tensor whose shape the file does not declare, so it may be broadcast, and what it zeroes is "
    "not known.",
    "Declare the shape of that tensor in the file, or fix the sizes of inputs with `--shape`.",
)
ALL_CHANNELS = Reason(
    "K404",
    "needs all channels",
    "The compiler knows the operator, and no way to run it with fewer channels along this axis.",
    "Put the mask after the operator. " + _ADAPTERS,
)
OWN_RULE = Reason(
    "K405",
    "needs the channels by a rule of your own",
    "A rule that was loaded with `--rules` asks for these channels; its own words are shown where it has any.",
    "Look at `required_inputs` of that rule (docs/custom-operators.md).",
)
OUTPUT = Reason(
    "K501",
    "needs all channels of the graph output",
    "The caller of the model receives this tensor, so it keeps its size, with the masked channels as constants.",
    "If the caller does not need the channels, remove them from the output in the model's source.",
)
CHEAPER_COMPUTED = Reason(
    "K601",
    "computes it together with the channels that are needed, which is cheaper",
    "Something needs the constants of some channels, or two operators need different channels of one tensor. "
    "Restoring constants or leaving out channels by an operator costs more time than computing a few channels more.",
    "Compile with `--adapters always`, if fewer FLOPs matter more than time.",
)
WHOLE_GRAPH = Reason(
    "K602",
    "would cost more to narrow than it saves",
    "Removing the channels would have made the model larger or added FLOPs, so the model is kept as it was.",
    "Mask more channels, or the same channels in branches that meet.",
)
SPEED = Reason(
    "K701",
    "kept so that the channel count suits the kernels",
    "A runtime is faster with certain channel counts, such as multiples of 8, and a few removable channels are kept to "
    "reach one.",
    "Compile with `--align none`, if fewer FLOPs matter more than time (docs/widths.md).",
)

#: all reasons, by their codes
REASONS = {item.code: item for item in globals().copy().values() if isinstance(item, Reason)}


def in_words(reason: Reason | str) -> tuple[str, str]:
    """The code and the words of a reason; text is that of a user's own rule."""
    if isinstance(reason, Reason):
        return reason.code, reason.words
    return OWN_RULE.code, reason or OWN_RULE.words
