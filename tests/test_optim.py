from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor, nn

from wingspan import optim
from wingspan.chance import generator
from wingspan.errors import UserError
from wingspan.optim import Optim

STEPS = 5


def weights() -> dict[str, Tensor]:
    """Double precision: a matrix, a convolution, a vector, a matrix of zeros, a matrix whose gradient will be zero."""
    draw = generator(0, "weights")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return {
        "matrix": normal(4, 3),
        "conv": normal(2, 3, 3, 3),
        "vector": normal(5),
        "zero": torch.zeros(2, 2).double(),
        "still": normal(3, 2),
    }


def gradients(step: int) -> dict[str, Tensor]:
    draw = generator(1, "gradients", step)
    found = {name: torch.randn(w.shape, generator=draw, dtype=torch.float64) for name, w in weights().items()}
    found["still"].zero_()
    return found


def slow_lars(decay: float, momentum: float, rates: list[float]) -> dict[str, list[float]]:
    """LARS of facebookresearch/vicreg on lists of floats, weight by weight."""
    out = {}
    for name, start in weights().items():
        w, m = start.flatten().tolist(), [0.0] * start.numel()
        for step, lr in enumerate(rates):
            u = gradients(step)[name].flatten().tolist()
            if start.ndim != 1:
                u = [g + decay * v for g, v in zip(u, w, strict=True)]
                size, update = math.sqrt(sum(v * v for v in w)), math.sqrt(sum(g * g for g in u))
                q = 0.001 * size / update if size > 0 and update > 0 else 1.0
                u = [q * g for g in u]
            m = [momentum * old + new for old, new in zip(m, u, strict=True)]
            w = [v - lr * step_ for v, step_ in zip(w, m, strict=True)]
        out[name] = w
    return out


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_lars_follows_the_loop_over_floats(decay: float) -> None:
    settings = Optim("lars", weight_decay=decay, momentum=0.8)
    parameters = {name: nn.Parameter(w) for name, w in weights().items()}
    optimiser = optim.build(settings, parameters.values())
    rates = [0.3 * (step + 1) for step in range(STEPS)]
    for step, lr in enumerate(rates):
        for group in optimiser.param_groups:
            group["lr"] = lr
        for name, gradient in gradients(step).items():
            parameters[name].grad = gradient
        optimiser.step()
    for name, expected in slow_lars(decay, 0.8, rates).items():
        assert parameters[name].flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14), name
    assert torch.equal(parameters["still"], weights()["still"]) == (decay == 0)
    assert not torch.equal(parameters["zero"], weights()["zero"])


def test_lars_leaves_what_has_no_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimiser = optim.build(Optim("lars", weight_decay=0.1), [used, unused])
    used.grad = torch.ones(2, 2)
    optimiser.step()
    assert torch.equal(unused, torch.ones(2, 2)) and (used < 1).all()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_decay(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2))
    for p in net.parameters():
        nn.init.constant_(p, 2.0)
        p.grad = torch.zeros_like(p)
    optimiser = optim.build(Optim(name, lr=0.1, weight_decay=0.5), net.parameters())  # type: ignore[arg-type]
    optimiser.step()
    for p in net.parameters():
        shrunk = 2.0 * (1 - 0.1 * 0.5) if p.ndim > 1 else 2.0
        torch.testing.assert_close(p.detach(), torch.full_like(p, shrunk))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("lars", optim.LARS)])
def test_every_trainable_parameter_is_in_one_group(name: str, kind: type) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[2].requires_grad_(False)
    optimiser = optim.build(Optim(name, momentum=0.7), net.parameters())  # type: ignore[arg-type]
    assert isinstance(optimiser, kind)
    found = [p for group in optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in (*net[0].parameters(), *net[1].parameters())}
    assert len(found) == 4
    for group in optimiser.param_groups:
        assert (group["betas"][0] if name == "adamw" else group["momentum"]) == 0.7


def test_rate_at_the_corners() -> None:
    settings = Optim(lr=0.5, warmup=0.1, floor=0.001)
    peak = 0.5 * 512 / 256
    assert optim.rate(settings, 0.0, 512) == 0.0
    assert optim.rate(settings, 0.05, 512) == pytest.approx(peak / 2)
    assert optim.rate(settings, 0.1, 512) == pytest.approx(peak)
    assert optim.rate(settings, 0.55, 512) == pytest.approx(peak * (1 + 0.001) / 2)
    assert optim.rate(settings, 1.0, 512) == pytest.approx(0.001 * peak)


def test_rate_follows_the_formula_in_steps() -> None:
    T, w, base, batch = 40, 8, 0.3, 1024
    settings = Optim(lr=base, warmup=w / T, floor=0.001)
    peak = base * batch / 256
    for t in range(T + 1):
        if t < w:
            expected = peak * t / w
        else:
            q = 0.5 * (1 + math.cos(math.pi * (t - w) / (T - w)))
            expected = peak * q + 0.001 * peak * (1 - q)
        assert optim.rate(settings, t / T, batch) == pytest.approx(expected, rel=1e-12)


def test_rate_grows_with_the_batch_and_survives_extreme_warm_ups() -> None:
    assert optim.rate(Optim(), 0.3, 512) == pytest.approx(2 * optim.rate(Optim(), 0.3, 256))
    assert optim.rate(Optim(lr=1.0, warmup=0.0), 0.0, 256) == 1.0
    assert optim.rate(Optim(lr=1.0, warmup=1.0), 0.5, 256) == 0.5
    assert optim.rate(Optim(lr=1.0, warmup=1.0), 1.0, 256) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["lars", "adamw", "sgd"])
def test_a_saved_optimiser_goes_on_bitwise(name: str) -> None:
    settings = Optim(name, lr=0.1, weight_decay=0.01)  # type: ignore[arg-type]

    def begin(values: dict[str, Tensor]) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        parameters = {key: nn.Parameter(w.float().clone()) for key, w in values.items()}
        return parameters, optim.build(settings, parameters.values())

    def go(parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            for key, gradient in gradients(step).items():
                parameters[key].grad = gradient.float()
            optimiser.step()

    straight, optimiser = begin(weights())
    go(straight, optimiser, range(6))
    first, optimiser = begin(weights())
    go(first, optimiser, range(3))
    file = io.BytesIO()
    torch.save(optimiser.state_dict(), file)
    file.seek(0)
    second, resumed = begin({key: p.detach() for key, p in first.items()})
    resumed.load_state_dict(torch.load(file, weights_only=True))
    go(second, resumed, range(3, 6))
    for key in straight:
        assert torch.equal(straight[key], second[key]), key


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lr": 0.0}, "learning rate 0.0"),
        ({"lr": -1.0}, "learning rate -1.0"),
        ({"lr": math.nan}, "learning rate nan"),
        ({"weight_decay": -1e-6}, "--optim.weight-decay -1e-06 must not be negative"),
        ({"weight_decay": math.nan}, "--optim.weight-decay nan"),
        ({"momentum": 1.5}, "--optim.momentum 1.5 must lie in 0..1"),
        ({"momentum": math.nan}, "--optim.momentum nan"),
        ({"warmup": -0.1}, "--optim.warmup -0.1"),
        ({"warmup": 10.0}, "--optim.warmup 10.0"),
        ({"floor": 2.0}, "--optim.floor 2.0"),
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Optim(**fields)  # type: ignore[arg-type]
