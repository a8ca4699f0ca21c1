"""The moving average against sums worked by hand, and that swapping leaves no trace."""

import pytest
import torch
from torch import nn

from unet_cli.training.ema import MAX_DECAY, Average, decay_at


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    return model.to(memory_format=torch.channels_last)


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fill(model, value):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


def test_the_decay_grows_to_its_most():
    assert decay_at(1) == pytest.approx(2 / 11)
    decays = [decay_at(step) for step in range(1, 20_000)]
    assert decays == sorted(decays)
    assert decays[-1] == MAX_DECAY


def test_weights_and_statistics_are_averaged_and_counters_copied():
    model = network()
    fill(model, 0)
    average = Average(model)
    for step, value in enumerate([11, 4], start=1):
        fill(model, value)
        average.update(model, step)
    # 2/11 * 0 + 9/11 * 11 = 9; 3/12 * 9 + 9/12 * 4 = 5.25
    state = average.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert state["1.num_batches_tracked"].item() == 4
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(state[name], torch.full_like(state[name], 5.25))


def test_updating_leaves_the_network_and_gradients_alone():
    model = network()
    before, average = copied(model), Average(model)
    average.update(model, 1)
    assert same(model.state_dict(), before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(value.requires_grad for value in average.state_dict().values())


def test_updating_reuses_the_same_memory_and_strides():
    model = network()
    average = Average(model)
    places = [value.data_ptr() for value in average.state_dict().values()]
    average.update(model, 1)
    assert [value.data_ptr() for value in average.state_dict().values()] == places
    for name, value in average.state_dict().items():
        assert value.stride() == model.state_dict()[name].stride()


def averaged(seed=0):
    """A network and an average that differs from it."""
    model = network(seed)
    average = Average(network(seed + 1))
    average.update(model, 5)
    return model, average


def test_swapping_gives_the_network_the_average_and_then_its_own_weights():
    model, average = averaged()
    own, other = copied(model), {name: value.clone() for name, value in average.state_dict().items()}
    with average.swapped_in(model):
        assert same(model.state_dict(), other)
        assert torch.is_grad_enabled()
    assert same(model.state_dict(), own)
    assert same(average.state_dict(), other)


def test_swapping_ends_after_an_exception():
    model, average = averaged()
    own = copied(model)
    with pytest.raises(KeyboardInterrupt), average.swapped_in(model):
        raise KeyboardInterrupt
    assert same(model.state_dict(), own)
    average.update(model, 6)


def test_swapping_keeps_weights_that_are_not_finite():
    model, average = averaged()
    with torch.no_grad():
        model[0].weight[0] = float("nan")
        model[0].weight[1] = float("inf")
    bits = model[0].weight.detach().clone().view(torch.int32)
    with average.swapped_in(model):
        assert torch.isfinite(model[0].weight).all()
    assert torch.equal(model[0].weight.detach().view(torch.int32), bits)


def test_swapping_keeps_every_tensor_in_its_place():
    model, average = averaged()
    parameters, places = list(model.parameters()), [value.data_ptr() for value in model.state_dict().values()]
    with average.swapped_in(model):
        assert [value.data_ptr() for value in model.state_dict().values()] == places
        assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_the_average_is_out_of_reach_while_it_is_swapped_in():
    model, average = averaged()
    with average.swapped_in(model):
        with pytest.raises(AssertionError):
            average.update(model, 6)
        with pytest.raises(AssertionError):
            average.state_dict()


def test_an_average_goes_on_from_its_saved_state():
    model, average = averaged()
    other = Average(model)
    other.load_state_dict(average.state_dict())
    for each in (average, other):
        each.update(model, 6)
    assert same(average.state_dict(), other.state_dict())
    assert average.state_dict()["0.weight"] is not other.state_dict()["0.weight"]


def test_the_average_of_another_network_is_refused():
    average = Average(network())
    state = average.state_dict()
    with pytest.raises(ValueError, match="not those of this network"):
        average.load_state_dict({"0.weight": state["0.weight"]})
    with pytest.raises(ValueError, match="not those of this network"):
        average.load_state_dict(state | {"0.bias": torch.zeros(1)})
