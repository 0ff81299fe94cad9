from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wingspan import optim
from wingspan.backbones.resnet import ResNet
from wingspan.chance import generator
from wingspan.learner import Learner
from wingspan.objectives.barlow import Barlow
from wingspan.objectives.base import Batch, Objective
from wingspan.objectives.byol import BYOL
from wingspan.objectives.simclr import SimCLR
from wingspan.objectives.supervised import Supervised
from wingspan.objectives.vicreg import VICReg
from wingspan.optim import Optim

BACKBONE = ResNet(arch="small", width=12, stem="half")
B = 4


def learner(objective: Objective, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    return Learner(BACKBONE, "8-6", objective, classes=3 if objective.supervised else 0)


def pictures(views: int, seed: int = 0) -> Tensor:
    return torch.randn(views * B, 3, 16, 16, generator=generator(seed, "test"))


def norms(module: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def train_a_step(made: Learner, seed: int) -> None:
    optimiser = optim.build(Optim("sgd", lr=0.1), made.parameters())
    total(made(pictures(made.objective.views, seed), None)).backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("objective", [SimCLR(), VICReg(), BYOL(hidden=7)])
def test_all_views_pass_every_batch_norm_together(objective: Objective) -> None:
    made = learner(objective)
    images = pictures(2)
    for step in (1, 2):
        made(images, None)
        assert [norm.num_batches_tracked for norm in norms(made)] == [step] * len(norms(made))
    made = learner(objective)
    seen = F.conv2d(images, made.backbone.conv1.weight, stride=2, padding=1).double()  # type: ignore[arg-type,union-attr]
    made(images, None)
    over_both = seen.mean((0, 2, 3))
    found = made.backbone.bn1.running_mean.double()  # type: ignore[operator,union-attr]
    torch.testing.assert_close(found, 0.1 * over_both, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [SimCLR(), VICReg(), Barlow()])
def test_terms_are_the_objectives_of_the_views_taken_apart(objective: Objective) -> None:
    made = learner(objective).eval()
    images = pictures(2)
    first = torch.stack([made.projector(made.backbone(image[None]))[0] for image in images[:B]])
    second = torch.stack([made.projector(made.backbone(image[None]))[0] for image in images[B:]])
    expected = objective.terms(Batch(torch.stack([first, second])))
    found = made(images, None)
    assert found.keys() == expected.keys()
    for name, term in found.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-3, atol=1e-4)


def test_supervised_learns_from_labels_through_its_classifier() -> None:
    made = learner(Supervised())
    images, labels = pictures(1), torch.tensor([0, 2, 1, 2])
    logits = made.eval().heads["classifier"](made.projector(made.backbone(images)))
    expected = -torch.stack(
        [torch.log(row.exp()[label] / row.exp().sum()) for row, label in zip(logits, labels, strict=True)]
    ).mean()
    found = made(images, labels)["cross_entropy"]
    torch.testing.assert_close(found, expected)
    found.backward()
    assert made.heads["classifier"].weight.grad.abs().sum() > 0  # type: ignore[union-attr,operator]


def test_byol_compares_each_view_with_the_averages_other_view() -> None:
    made = learner(BYOL(hidden=7))
    train_a_step(made, 1)  # the average is left behind
    made.eval()
    assert made.average is not None
    images = pictures(2)
    z = made.projector(made.backbone(images))
    p, t = made.heads["predictor"](z), made.average(images)
    cosine = torch.nn.CosineSimilarity()
    expected = (2 - 2 * cosine(p[:B], t[B:])).mean() + (2 - 2 * cosine(p[B:], t[:B])).mean()
    torch.testing.assert_close(made(images, None)["prediction"], expected)


def test_the_average_starts_as_a_copy_and_follows_its_formula() -> None:
    made = learner(BYOL(momentum_start=0.9, hidden=7))
    assert made.average is not None
    online = nn.Sequential(made.backbone, made.projector)
    for name, value in online.state_dict().items():
        assert torch.equal(value, made.average.state_dict()[name]), name
    expected = {name: p.detach().double().clone() for name, p in online.named_parameters()}
    for step, progress in enumerate((0.0, 0.5, 0.9)):
        train_a_step(made, step)
        m = made.objective.momentum(progress)
        assert m is not None and m < 1
        made.after_step(progress)
        for name, p in online.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * p.detach().double()
    for name, p in made.average.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-5, atol=1e-7)
        assert p.grad is None and not p.requires_grad
    kept = dict(made.average.named_buffers())
    for name, buffer in online.named_buffers():
        assert torch.equal(kept[name], buffer), name
    assert any(not torch.equal(a, b) for a, b in zip(made.average.parameters(), online.parameters(), strict=True))


def test_at_the_end_the_average_stands_still() -> None:
    made = learner(BYOL(hidden=7))
    assert made.average is not None
    before = [p.clone() for p in made.average.parameters()]
    train_a_step(made, 0)
    made.after_step(1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, made.average.parameters(), strict=True))


def test_the_average_is_saved_and_never_trained() -> None:
    made = learner(BYOL(hidden=7))
    assert made.average is not None
    saved = {name.removeprefix("average.") for name in made.state_dict() if name.startswith("average.")}
    assert saved == set(made.average.state_dict())
    trained = {id(p) for group in optim.build(Optim(), made.parameters()).param_groups for p in group["params"]}
    assert not trained & {id(p) for p in made.average.parameters()}
    assert trained == {id(p) for part in (made.backbone, made.projector, made.heads) for p in part.parameters()}


@pytest.mark.parametrize("objective", [SimCLR(), VICReg(), Barlow(), Supervised()])
def test_after_step_changes_nothing_where_no_average_is_kept(objective: Objective) -> None:
    made = learner(objective)
    assert made.average is None and not any(name.startswith("average") for name in made.state_dict())
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.after_step(0.5)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


@pytest.mark.parametrize("objective", [SimCLR(), VICReg(), Barlow()])
def test_the_loss_is_in_full_precision_under_autocast(objective: Objective) -> None:
    made = learner(objective)
    seen: list[Tensor] = []
    made.projector.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        terms = made(pictures(2), None)
    (z,) = seen
    assert z.dtype == torch.bfloat16
    for name, expected in objective.terms(Batch(torch.stack([z[:B], z[B:]]).float())).items():
        assert terms[name].dtype == torch.float32
        assert torch.equal(terms[name], expected), name
