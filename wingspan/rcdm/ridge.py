"""What closed form predicts from h: ridge regression on many targets at once, cross-fitted.

Cross-fitted, because wide h of few images lets a regression remember them: a decoder that was shown such predictions in
training would take them for better than they are afterwards.

Up to D = 4096 all rows enter, by D x D products summed in one pass. Beyond, by the products of at most 6,144 rows with each
other, evenly spread: a closed form then takes about a minute of one core at D = 32768.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wingspan.errors import UserError
from wingspan.inputs import Inputs
from wingspan.progress import bar
from wingspan.rcdm._solve import WIDE, Dual, Primal, Targets, product

PRIMAL = 4096  # D up to which matrices are D x D
PENALTIES = tuple(10.0**power for power in range(-5, 3))  # of the mean variance along those directions that can vary
_TRIED = 128  # columns of a group that its penalty is chosen by, evenly spread


@dataclass(frozen=True)
class Ridge:
    """F linear maps from standardised h (n, D) to targets (n, P), each fitted on the training rows of the other folds.

    Row r belongs to fold r % F: nothing has to be stored, and where images lie sorted by class every fold has all classes.
    weights (F, D, P) fp32, or bf16 for D above PRIMAL; offsets (F, P) fp32; penalties: group -> what was chosen for it, of the
    mean variance of h along the directions in which the rows can vary.
    """

    weights: Tensor
    offsets: Tensor
    penalties: Mapping[str, float]

    def held_out(self, inputs: Inputs, rows: Tensor, columns: slice = slice(None)) -> Tensor:
        """Targets (n, P) fp32 of training rows (n,) int64, each by the map that has not seen it; or some columns of them."""
        h, fold = inputs.rows(rows), rows % len(self.weights)
        found = torch.empty(len(rows), len(self.offsets[0, columns]))
        for number in fold.unique().tolist():
            mine = fold == number
            found[mine] = product(h[mine], self.weights[number, :, columns]) + self.offsets[number, columns]
        return found

    def predict(self, h: Tensor, columns: slice = slice(None)) -> Tensor:
        """Targets (n, P) fp32 of other images' standardised h (n, D), by the mean of the maps; or some columns of them."""
        return product(h, self._mean[:, columns]) + self.offsets.mean(0)[columns]

    @functools.cached_property
    def _mean(self) -> Tensor:
        total = self.weights[0].clone()
        for each in self.weights[1:]:
            total += each
        return total / len(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, for a file."""
        chosen = {f"penalty {name}": torch.tensor(value, dtype=torch.float64) for name, value in self.penalties.items()}
        return {"weights": self.weights.contiguous(), "offsets": self.offsets.contiguous(), **chosen}

    @classmethod
    def from_tensors(cls, held: Mapping[str, Tensor]) -> Ridge:
        """What `tensors` gave."""
        chosen = {name[8:]: float(value) for name, value in held.items() if name.startswith("penalty ")}
        return cls(held["weights"], held["offsets"], chosen)


def fit(
    train: Inputs,
    targets: Targets,
    rows: int,
    *,
    groups: Mapping[str, slice] | None = None,
    folds: int = 3,
    label: str = "ridge",
) -> Ridge:
    """Regress targets(rows (n,) int64) -> (n, P) float32 on the standardised h of the first `rows` training images.

    targets is asked for batches in ascending order. groups: name -> columns that share a penalty, together all of them; it is
    chosen by the error on the rows left out, where D is above PRIMAL on those of the first fold alone. Offsets are not
    penalised. A dead dimension (all 0) gets weight 0. Raises UserError for fewer than two rows a fold.
    """
    if folds < 2 or rows < 2 * folds:
        raise UserError(f"{label}: {rows} training images cannot be fitted in {folds} folds; give at least {2 * folds}.")
    problems: Primal | Dual
    problems = (Primal if train.D <= PRIMAL else Dual)(train, targets, rows, folds, label)
    P = problems.P
    places = {name: torch.arange(P)[at] for name, at in (groups or {"all": slice(None)}).items()}
    # In fp32, as the dual is solved, a weaker penalty drowns in rounding.
    penalties, looked_at = (PENALTIES, folds) if train.D <= PRIMAL else (PENALTIES[2:], 1)
    chosen = _choose(problems, places, penalties, looked_at, label)
    weights = torch.zeros(folds, train.D, P, dtype=torch.float32 if train.D <= PRIMAL else WIDE)
    offsets = torch.zeros(folds, P)
    for fold in range(folds):
        problem = problems.problem(fold)
        for penalty in sorted(set(chosen.values())):
            columns = torch.cat([at for name, at in places.items() if chosen[name] == penalty])
            # The next stronger one for the rare fold in which rounding makes this one fail.
            tried = (problem.factor(each) for each in penalties if each >= penalty)
            factor = next(each for each in tried if each is not None)
            problem.write(problem.solved(factor, columns), columns, weights[fold], offsets[fold])
    return Ridge(weights, offsets, chosen)


def _choose(
    problems: Primal | Dual, places: Mapping[str, Tensor], penalties: Sequence[float], folds: int, label: str
) -> dict[str, float]:
    some = {name: at[torch.linspace(0, len(at) - 1, min(len(at), _TRIED)).long()] for name, at in places.items()}
    tried = torch.cat(list(some.values()))
    errors = torch.zeros(len(penalties), len(tried), dtype=torch.float64)
    with bar(f"{label}, penalties", folds * len(penalties), things="tried") as shown:
        for fold in range(folds):
            problem = problems.problem(fold)
            for number, penalty in enumerate(penalties):
                factor = problem.factor(penalty)
                errors[number] += torch.inf if factor is None else problem.lost(problem.solved(factor, tried), tried)
                shown.advance()
    parts = errors.split([len(at) for at in some.values()], dim=1)
    # The strongest of equals: where h tells nothing all are.
    best = (len(penalties) - 1 - int(part.sum(1).flip(0).argmin()) for part in parts)
    return {name: penalties[at] for name, at in zip(some, best, strict=True)}
