"""The paper's numbers: Bordes et al. 2023, "A surprisingly simple technique to control the pretraining bias for better
transfer: Expand or Narrow your representation", arXiv:2304.05369, Tables 1 to 7 and what a few sentences state.

`paper.csv` has one row a cell, the value as printed. Where the text that it was read from slips, the row's `note` says so:

* Table 4 lacks the cell of BYOL on CLEVR at D = 512 (its row here is Table 7's), and sets one VICReg under the data sets; its
  CLEVR is Table 7's CLEVR-D.
* Tables 4 and 7 disagree once: SimCLR on EuroSAT at D = 15360 has 90.16 and 90.48. Table 7 has 90.16 one column on.
* Table 3 does not name the images that were probed: taken as those of the iNaturalist18 it pretrains on.
* Table 5's header names three of its five columns. The other two are `imagenet9-column3` and `imagenet9-column6`, by their
  places: both lie above mixed_rand, so only_fg and mixed_same suggest themselves, but the text does not say which is which.
* Table 6 spells 16834 for the 16384 of Table 1; the captions of Figures 2 and 3 have 16362.
* Figure 1's caption has supervised pretraining drop 10 points with few labels; Table 7 has 8.5 (1 %) and 5.13 (10 %).
* Section 3.2 has "only 100 images" for ImageNet 10 %, which must mean about 100 of each class.
* Section 2 has sparsity above 80 %; section 4.1 has 80 % of the examples with half of their activations at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import pandas as pd

from wingspan.errors import UserError, nearest
from wingspan.measures.base import Measure
from wingspan.results import label_of

TYPES = dict.fromkeys(("item", "method", "pretrained_on", "projector", "setting", "task", "metric", "note"), "str")


def numbers(item: str | None = None) -> pd.DataFrame:
    """What the paper gives, one row a number; of one `item` (tab1 to tab7, fig1, sec2, sec4.1), or of all.

    Columns, text unless said otherwise and "" where the paper does not say:

    * item, method (simclr, vicreg, byol, supervised), pretrained_on (imagenet1k, inat18), D (Int64, may be missing);
    * projector: layer widths as in `wingspan.projector`, "none" for no projector, "" for the method's usual one;
    * setting: how pretraining drew its images, uniform, unbalanced (8 classes a batch), longtail (the data set's own);
    * task: the data set, and its share of labels, that was probed;
    * metric: accuracy; accuracy_change, against uniform batches, and accuracy_drop, from D = 512 to 32768, in points; sparsity;
      examples_half_zero, the share of examples with half of h at zero;
    * value (float64): in percent; note: what to know about the row.

    Raises UserError for an item that is not there, with the nearest.
    """
    with (resources.files("wingspan.experiments") / "paper.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(
            file, dtype={**TYPES, "D": "Int64", "value": "float64"}, keep_default_na=False, na_values={"D": [""]}
        )
    if item is None:
        return table
    known = list(table["item"].unique())
    if item not in known:
        raise UserError(f"the paper's numbers have no item '{item}'.{nearest(item, known)}")
    return table[table["item"] == item].reset_index(drop=True)


@dataclass(frozen=True)
class Published:
    """A table of the paper, shaped like the results of the study that repeats it: one run a number, so no intervals."""

    table: pd.DataFrame
    """What the study's claims, at scale paper, are put to."""
    drawn: pd.DataFrame
    """What is drawn beside the study's own numbers."""


def results(item: str, measure: Measure) -> pd.DataFrame:
    """An item's accuracies as `wingspan.results.tables(...).numbers` has them, measured by `measure`: a fraction a row.

    What stands in no column of that table, `projector` and `setting`, is kept for the study to make axes of.
    """
    rows = numbers(item)
    own = [task.startswith(on) for task, on in zip(rows["task"], rows["pretrained_on"], strict=True)]
    return pd.DataFrame(
        {
            "run": "the paper",
            "objective": rows["method"],
            "width": rows["D"].astype("int64"),
            "seed": 0,
            "measure": label_of(measure),
            "metric": "accuracy",
            "data": rows["task"],
            "task": "",
            "series": "",
            "role": ["in-distribution" if each else "transfer" for each in own],
            "value": rows["value"] / 100,
            "projector": rows["projector"],
            "setting": rows["setting"],
        }
    )
