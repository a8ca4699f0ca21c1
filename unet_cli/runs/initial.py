"""Initial weights for a network of the same architecture with other classes or channels: what fits is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import CHANNEL_WORDS
from unet_cli.errors import UserError
from unet_cli.models import Network, weightless
from unet_cli.system.console import counted, few


@dataclass(frozen=True)
class Mix:
    """How outputs or channels of a network are made of those of another, as rows of factors.

    rows: (now, before) factors. is_kept: which of those now are made of them; the others start afresh.
    """

    rows: Tensor
    is_kept: list[bool]

    @property
    def is_same(self) -> bool:
        """Whether all is as before."""
        return all(self.is_kept) and torch.equal(self.rows, torch.eye(len(self.rows)))


def start_from(model: Network, initial: Checkpoint, template: Checkpoint) -> str:
    """Load what fits of the initial weights into a new network of the same architecture, and say in a sentence what was
    kept and what starts afresh.

    template: checkpoint of the new network. Everything but the first convolution and the head is kept as it is, see
    kept_classes and kept_channels for these. Raises UserError where a frozen encoder would not see a channel.
    """
    of_classes, of_channels = kept_classes(initial.labels, template.labels), kept_channels(initial, template)
    blind = [number for number, is_kept in enumerate(of_channels.is_kept) if not is_kept]
    if blind and model.frozen:
        raise UserError(
            f"--freeze: the encoder has not been trained on {_channels_named(template, blind)}, and frozen it can't "
            "learn to see more: leave --freeze out, or train on the channels that it knows"
        )
    if initial.weights.keys() != model.state_dict().keys():  # as where a shortcut needs no convolution for the channels
        then, now = (one.preprocessing.in_channels for one in (initial, template))
        raise UserError(
            f"--init: {template.model.name} has other layers for {counted(now, 'channel')} than for {then:,}, so its "
            f"weights can't be kept: convert the images to {counted(then, 'channel')}, or train without --init"
        )
    on_classes, on_channels = _sized_by_outputs(initial.model), _sized_by_channels(initial.model)
    weights = {}
    for name, fresh in model.state_dict().items():
        before = initial.weights[name]
        if name in on_channels and not of_channels.is_same:
            before = torch.einsum("no,ko...->kn...", of_channels.rows, before.float())
        elif name in on_classes and not of_classes.is_same:
            before = _of_outputs(before.float(), fresh, of_classes, joins=1 in on_classes[name])
        weights[name] = before
    model.load_state_dict(weights)
    return _sentence(initial, template, of_classes, of_channels)


def kept_classes(before: LabelMap, now: LabelMap) -> Mix:
    """How the logits of the new classes are made of those of the old ones, at first.

    Classes are the same where their names are, in any case of letters; so are backgrounds, and the foregrounds of two
    networks that have a single one. A softmax compares its logits with each other, a sigmoid compares a class with all
    else, so where one becomes the other, the background, which is all else, is the measure: a class that had a sigmoid
    keeps its logit in a softmax, where the background's logit is then 0; and a class of a softmax gets a sigmoid on its
    logit less that of the background, or less the mean of the others where there was none. The probability of the class
    beside the background stays the same. Cores of objects are kept with a class; where they were not learned before,
    those of a single class start as its objects, which they are a part of. Other classes are new. Where no class is
    kept, neither is the background.
    """
    outputs = torch.eye(before.outputs)

    def score(number: int) -> Tensor:
        """Factors of the old logits whose sum is the score of an old class in a softmax."""
        return outputs[number - 1] * (number > 0) if before.has_threshold else outputs[number]

    def against(number: int) -> Tensor:
        """Likewise for its score against all else."""
        if before.has_threshold:
            return score(number)
        others = outputs[:1] if before.background else outputs[[o for o in range(before.num_classes) if o != number]]
        return score(number) - others.mean(0)

    same = _same_classes(before, now)
    is_any_kept = any(number in same for number in now.scored)
    rows, is_kept = [], []
    for number in range(now.num_classes):
        if number == 0 and now.has_threshold:  # a background without a logit
            continue
        is_kept.append(is_any_kept and number in same)
        of_class = against if now.has_threshold else score
        rows.append(of_class(same[number]) if is_kept[-1] else torch.zeros(before.outputs))
    if now.cores:
        is_kept.append(is_any_kept and (before.cores or now.num_classes == 2))
        of_cores = outputs[-1] if before.cores else rows[0]
        rows.append(of_cores if is_kept[-1] else torch.zeros(before.outputs))
    return Mix(torch.stack(rows), is_kept)


def kept_channels(before: Checkpoint, now: Checkpoint) -> Mix:
    """How the first convolution's kernels of the new channels are made of those of the old ones.

    Channels that are files of their own are the same where their words are, such as t1; so are alpha channels, slices
    at the same distance from the middle one, and any as many channels of which none has the same word. Where fewer
    slices are seen, the outermost takes the place of those beyond it, which were much like it; further slices and words
    are new: their kernels are 0, so that the network begins with what it knew.

    Other numbers of channels share the sum of the kernels equally: one channel gets the sum over red, green and blue,
    and three get a third of that of a gray one each. Channels that are all the same then have the same activation as
    before, of the same size.
    """
    old, new = before.preprocessing, now.preprocessing
    of_slices = _slices(old.slices, new.slices)
    words = [_words(checkpoint) for checkpoint in (before, now)]
    if set(words[0]) & set(words[1]):
        of_colours = torch.tensor([[float(word == other) for other in words[0]] for word in words[1]])
    else:
        of_colours = _colours(old, new)
    rows = torch.kron(of_slices, of_colours)
    return Mix(rows, [bool(row.any()) for row in rows])


def _same_classes(before: LabelMap, now: LabelMap) -> dict[int, int]:
    """The old class of each new one that was there before."""
    known = {name.casefold(): number for number, name in enumerate(before.names)}
    same = {number: known[name.casefold()] for number, name in enumerate(now.names) if name.casefold() in known}
    if before.num_classes == now.num_classes == 2:
        return {0: 0, 1: 1}
    if now.background and before.background:
        return {number: old for number, old in same.items() if number and old} | {0: 0}
    return same


def _slices(before: int, now: int) -> Tensor:
    """(now, before) which slices are seen in place of which."""
    rows = torch.zeros(now, before)
    for slice_ in range(before):
        at = slice_ - before // 2 + now // 2
        rows[min(max(at, 0), now - 1), slice_] = 1
    return rows


def _colours(before: Preprocessing, now: Preprocessing) -> Tensor:
    """(now, before) factors of the channels of a slice."""
    counts = [one.in_channels // one.slices for one in (now, before)]
    if counts[0] == counts[1]:
        return torch.eye(counts[0])
    new, old = (count - one.keep_alpha for count, one in zip(counts, (now, before), strict=True))
    rows = torch.zeros(*counts)
    rows[:new, :old] = torch.eye(new) if new == old else 1 / new
    if now.keep_alpha and before.keep_alpha:
        rows[-1, -1] = 1
    return rows


def _words(checkpoint: Checkpoint) -> list[str]:
    """The words of the channels of a slice; none where they have no names."""
    words = checkpoint.training.get(CHANNEL_WORDS) or []
    return words if len(words) * checkpoint.preprocessing.slices == checkpoint.preprocessing.in_channels else []


def _of_outputs(before: Tensor, fresh: Tensor, mix: Mix, joins: bool) -> Tensor:
    """A weight or bias of a head for other outputs; those that aren't kept stay fresh.

    joins: the second dimension too has an entry for each output, of several heads one after the other: those of a kept
    output are made so that it depends on what it depended on, as far as that is kept, and not on new outputs.
    """
    kept = torch.tensor(mix.is_kept)
    rows = torch.einsum("no,o...->n...", mix.rows, before)
    if joins:
        of_heads = rows.unflatten(1, (-1, mix.rows.shape[1]))
        rows = torch.einsum("nho...,om->nhm...", of_heads, torch.linalg.pinv(mix.rows)).flatten(1, 2)
    return torch.where(kept.view(-1, *[1] * (fresh.ndim - 1)), rows, fresh)


def _sized_by_channels(model: ModelConfig) -> dict[str, list[int]]:
    return _sized_by(model, replace(model, in_channels=model.in_channels + 1))


def _sized_by_outputs(model: ModelConfig) -> dict[str, list[int]]:
    few_classes = replace(model, num_classes=3, overlapping=False, cores=False)
    return _sized_by(few_classes, replace(few_classes, num_classes=4))


def _sized_by(one: ModelConfig, other: ModelConfig) -> dict[str, list[int]]:
    """The tensors whose shapes differ between two networks, or that the other lacks, and the dimensions in which they
    do."""
    shapes, others = (weightless(model).state_dict() for model in (one, other))
    dims = {
        name: [dim for dim, side in enumerate(tensor.shape) if name not in others or side != others[name].shape[dim]]
        for name, tensor in shapes.items()
    }
    return {name: found for name, found in dims.items() if found}


def _sentence(initial: Checkpoint, template: Checkpoint, of_classes: Mix, of_channels: Mix) -> str:
    """What was kept, and what is new."""
    if of_classes.is_same and of_channels.is_same:
        return "all weights are kept"
    kept, new = ["encoder", "decoder"], list[str]()
    fresh = [number for number, is_kept in enumerate(of_channels.is_kept) if not is_kept]
    if not of_channels.is_same:
        then, now = initial.model.in_channels, template.model.in_channels
        kept[0] += f" (its first convolution, of {counted(then, 'channel')}, is now of {now:,})"
    if fresh:
        new.append(f"what the first convolution makes of {_channels_named(template, fresh)}")
    labels = template.labels
    names = [*(labels.scored_names if labels.has_threshold else labels.names), *["cores"] * labels.cores]
    held = [name for name, is_kept in zip(names, of_classes.is_kept, strict=True) if is_kept]
    fresh_names = [name for name, is_kept in zip(names, of_classes.is_kept, strict=True) if not is_kept]
    kept += [f"the head's outputs for {few(held)}"] if held else []
    new += [f"the head's outputs for {few(fresh_names)}"] if fresh_names else []
    return f"kept: {', '.join(kept)}; new: {', '.join(new) or 'nothing'}"


def _channels_named(template: Checkpoint, numbers: Sequence[int]) -> str:
    """Channels by their words, or by their numbers from 1."""
    words = _words(template) * template.preprocessing.slices
    names = list(dict.fromkeys(words[number] for number in numbers)) if words else [str(n + 1) for n in numbers]
    return f"channel{'s' * (len(names) > 1)} {few(names)}"
