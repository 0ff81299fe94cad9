"""What a trained network still says after its width was changed, and how its inputs and channels are judged."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tiny_runs
import torch
import zoo

from wingspan import augment, set_width, warm
from wingspan.data.scenes import Scenes
from wingspan.loop import pretrain
from wingspan.network import load_network
from wingspan.pretrain import Sitting
from wingspan.runtime import Runtime
from wingspan.width import anatomy, opening
from wingspan.width.moments import moments, positions
from wingspan.width.rows import Linear, chosen, narrower, wider


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A small net after some steps on scenes, and both splits' views with labels."""
    data = Scenes(train=800, test=800, size=32)
    run = tiny_runs.tiny(data=data, backbone__width=64, batch=80, epochs=6, precision="auto")
    folder = pretrain(run, tmp_path_factory.mktemp("trained") / "run", Sitting(online=False))
    network = load_network(folder, Runtime("cpu", "fp32"))[1]
    sets = [data.load(split) for split in ("train", "test")]
    return network.backbone, [(augment.plain(run.views, each.images.batch(torch.arange(800))), each.labels) for each in sets]


def accuracy(module, sets) -> float:
    """The mean over every factor of a linear probe's accuracy on test images."""
    with torch.no_grad():
        (h, labels), (unseen, truth) = [(module.eval()(views), each) for views, each in sets]
    right = []
    for task in labels:
        weight, bias = warm.logistic(h, labels[task], int(labels[task].max()) + 1, 1e-2)
        right.append(((unseen @ weight.T + bias).argmax(1) == truth[task]).float().mean())
    return float(torch.stack(right).mean())


@pytest.mark.parametrize("seen", [True, False])
def test_a_linear_probe_right_after_widening_reads_no_less(trained, seen: bool) -> None:
    backbone, sets = trained
    before = accuracy(backbone, sets)
    assert before > 0.18  # the most frequent values alone give 0.15: there is something to lose
    for D, seed in itertools.product((100, 512), (0, 1)):
        wide = set_width(backbone, D, images=sets[0][0][:256] if seen else None, seed=seed, side=32)
        assert accuracy(wide, sets) > before - 0.01, (D, seed)


def test_the_channels_that_are_kept_say_more_than_the_first_ones(trained) -> None:
    backbone, sets = trained
    kept = set_width(backbone, 6, images=sets[0][0][:512], side=32)
    assert accuracy(kept, sets) > accuracy(set_width(backbone, 6, side=32), sets) - 0.01
    h = backbone.eval()(sets[0][0]).detach()
    some = chosen(h, 6)

    def unexplained(columns: torch.Tensor) -> float:
        x = torch.cat([h[:, columns], torch.ones(len(h), 1)], 1).double()
        rest = h.double() - x @ torch.linalg.lstsq(x, h.double()).solution
        return float(rest.square().sum())

    drawn = [unexplained(torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:6]) for seed in range(20)]
    assert unexplained(some) < min(drawn)


def test_greedy_choice_is_the_slow_obvious_one() -> None:
    torch.manual_seed(0)
    h = (torch.randn(40, 9) @ torch.randn(9, 9)).double()
    centred = h - h.mean(0)
    picked: list[int] = []
    for _ in range(4):
        left = {}
        for extra in set(range(9)) - set(picked):
            x = centred[:, [*picked, extra]]
            left[extra] = float((centred - x @ torch.linalg.lstsq(x, centred).solution).square().sum())
        picked.append(min(left, key=left.__getitem__))
    assert chosen(h, 4).tolist() == sorted(picked)


def test_with_fewer_images_than_channels_as_many_as_asked_are_chosen() -> None:
    h = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    assert len(chosen(h, 10).unique()) == 10
    assert len(chosen(torch.ones(5, 20), 7).unique()) == 7


@pytest.mark.parametrize("name", ["timm-resnet18", "timm-resnet10t", "timm-convnext_atto", "torchvision-swin"])
def test_moments_are_those_of_what_the_two_layers_multiply(name: str) -> None:
    model, x = zoo.model(name), zoo.images(6)
    anatomy.without_classifier(model, x)
    opening.open_shortcut(model, x)
    found = anatomy.dissect(model, x)
    seen = moments(model, found, x, 0)
    got: dict[str, list[torch.Tensor]] = {found.out: [], found.shortcut: []}
    for path, list_of in got.items():
        model.get_submodule(path).register_forward_hook(lambda m, i, o, kept=list_of: kept.append(o))
    with torch.no_grad():
        h = model.eval()(x)
    torch.testing.assert_close(seen.h, h, rtol=1e-4, atol=1e-5)
    n = seen.split
    for path, here in ((found.out, slice(0, n)), (found.shortcut, slice(n, None))):
        layer = model.get_submodule(path)
        made = got[path][0]
        made = made.transpose(1, -1) if isinstance(layer, torch.nn.Conv2d) else made
        rows = made.flatten(0, -2).double()
        W = layer.weight.detach().double().flatten(1)
        bias = 0 if layer.bias is None else layer.bias.detach().double()
        torch.testing.assert_close(W @ seen.mean[here] + bias, rows.mean(0), rtol=1e-3, atol=1e-4)
        predicted = (W @ seen.covariance[here, here] @ W.T).diagonal()
        torch.testing.assert_close(predicted, rows.var(0), rtol=1e-3, atol=1e-5)


def test_only_the_class_token_counts_where_only_it_is_read() -> None:
    x = zoo.images(2)
    for name, count in (("timm-vit_tiny_patch16_224", 1), ("timm-vit-pooled", 16), ("timm-resnet18", 4)):
        model = zoo.model(name)
        anatomy.without_classifier(model, x)
        assert len(positions(model, anatomy.dissect(model, x), x)) == count


def test_residual_features_are_uncorrelated_with_old_channels_and_random_ones_are_as_spread() -> None:
    model, x = zoo.model("timm-vit-pooled"), zoo.images(64)
    anatomy.without_classifier(model, x)
    opening.open_shortcut(model, x)
    found = anatomy.dissect(model, x)
    seen = moments(model, found, x, 0)
    torch.manual_seed(0)
    C, n = 20, len(seen.mean)
    old = torch.randn(C, n, dtype=torch.float64) / n**0.5
    linear = Linear(old[:, : seen.split], old[:, seen.split :], torch.randn(C, dtype=torch.float64))
    for new in ("random", "residual"):
        rows = wider(linear, C + 50, False, seen, 0, new)
        both = torch.cat([rows.branch, rows.shortcut], 1)
        own, theirs = (each @ seen.covariance @ each.T for each in (both, old))
        torch.testing.assert_close(own.diagonal(), theirs.diagonal()[rows.like], rtol=1e-4, atol=0)
        torch.testing.assert_close(both @ seen.mean + rows.offset, (old @ seen.mean + linear.offset)[rows.like])
        cross = both @ seen.covariance @ old.T / torch.outer(own.diagonal(), theirs.diagonal()).sqrt()
        assert (float(cross.abs().max()) < 1e-3) == (new == "residual")


def test_a_projection_keeps_the_principal_directions() -> None:
    torch.manual_seed(0)
    model, x = zoo.model("timm-resnet18"), zoo.images(64)
    anatomy.without_classifier(model, x)
    opening.open_shortcut(model, x)
    found = anatomy.dissect(model, x)
    seen = moments(model, found, x, 0)
    old = torch.randn(12, len(seen.mean), dtype=torch.float64)
    linear = Linear(old[:, : seen.split], old[:, seen.split :], torch.zeros(12, dtype=torch.float64))
    rows = narrower(linear, 5, "projection", seen)
    own = torch.cat([rows.branch, rows.shortcut], 1) @ seen.covariance @ torch.cat([rows.branch, rows.shortcut], 1).T
    values = torch.linalg.eigvalsh(old @ seen.covariance @ old.T).flip(0)[:5]
    torch.testing.assert_close(own, torch.diag(values), rtol=1e-6, atol=1e-6 * float(values[0]))


def test_a_file_of_the_house_can_be_read_without_wingspan() -> None:
    """Exports carry `plain.py`: it must need PyTorch alone."""
    text = (Path(anatomy.__file__).parent / "plain.py").read_text()
    assert "wingspan" not in text and "import torch" in text
